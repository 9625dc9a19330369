"use strict";
(() => {
  /* The text of an embedded block: as it stands, or base64 of packed UTF-8. */
  async function block(id) {
    const element = document.getElementById(id);
    if (!("packed" in element.dataset)) return element.textContent;
    const [packing] = element.dataset.packed.split(" ");
    const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(packing))).text();
  }

  /* Downloads are made here, of what is embedded. */
  function csv(columns, rows) {
    const cell = (v) => {
      const text = Array.isArray(v) ? v.join("; ") : String(v ?? "");
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  function runs({ records }) {
    const columns = Object.keys(records);
    return csv(columns, records.record_id.map((_, n) => columns.map((name) => records[name][n])));
  }

  function comparisons({ records, comparisons: compared }) {
    const columns = ["record_id", "engine", "metric", "category", "predicted", "measured", "relative_error"];
    const rows = records.record_id.flatMap((id, n) => compared.filter((c) => c.measured[n] !== null).map((c) => [
      id, c.engine, c.metric, c.category, c.measured[n] + c.difference[n], c.measured[n],
      c.measured[n] ? c.difference[n] / c.measured[n] : null,
    ]));
    return csv(columns, rows);
  }

  const { save } = lpFigures;
  document.querySelectorAll("[data-download]").forEach((button) => button.addEventListener("click", async () => {
    const text = await block("data");
    const what = button.dataset.download;
    if (what === "json") save("lora-profiler.json", "application/json", text);
    if (what === "runs") save("runs.csv", "text/csv", runs(JSON.parse(text)));
    if (what === "comparisons") save("comparisons.csv", "text/csv", comparisons(JSON.parse(text)));
  }));
  document.querySelector(".downloads").hidden = false;

  /* Figures are drawn when they come near the window, and all of them on paper, which is light. */
  async function draw() {
    const { look, dark, figures } = JSON.parse(await block("figures"));
    document.head.append(Object.assign(document.createElement("script"), { textContent: await block("plotly") }));
    const night = matchMedia("(prefers-color-scheme: dark)"), paper = matchMedia("print");
    const colours = () => night.matches && !paper.matches ? dark : {};
    const shown = new Map(), places = [...document.querySelectorAll(".figure")];
    const show = (place) => {
      if (shown.has(place)) return shown.get(place)();
      shown.set(place, lpFigures.show(place, place.id, figures[place.id], look, colours, document.getElementById(`${place.id}-caption`).textContent));
    };
    const near = new IntersectionObserver((seen) => seen.forEach(({ isIntersecting, target }) => {
      if (!isIntersecting) return;
      near.unobserve(target);
      show(target);
    }), { rootMargin: "600px" });
    places.forEach((place) => near.observe(place));
    night.addEventListener("change", () => [...shown.keys()].forEach(show));
    paper.addEventListener("change", () => places.forEach(show));
  }
  if (document.querySelector(".figure")) draw();
})();
