"use strict";
(async () => {
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");

  /* The text of an embedded block: as it stands, or base64 of deflated UTF-8. */
  async function block(id) {
    const element = document.getElementById(id);
    if (!("packed" in element.dataset)) return element.textContent;
    const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  }

  const { config, dark: darkOf, figures } = JSON.parse(await block("figures"));
  let loading = null;

  function plotly() {
    loading ??= block("plotly").then((code) => {
      const script = document.createElement("script");
      script.textContent = code;
      document.head.append(script);
      return Plotly;
    });
    return loading;
  }

  /* Figures are drawn in light colours; in the dark each has its twin. Text stays as it is, even where it spells a colour. */
  function repainted(value, isColour) {
    if (Array.isArray(value)) return value.map((part) => repainted(part, isColour));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, repainted(v, /color(scale)?$/.test(k))]));
    }
    return isColour && Object.hasOwn(darkOf, value) ? darkOf[value] : value;
  }

  const drawn = new Set();
  async function draw(element) {
    const { newPlot, react } = await plotly();
    const figure = figures[element.id];
    const shown = dark.matches ? repainted(figure, false) : structuredClone(figure);
    const options = { ...config, toImageButtonOptions: { ...config.toImageButtonOptions, filename: element.id } };
    const again = drawn.has(element);
    drawn.add(element);
    if (!again) element.replaceChildren();
    await (again ? react : newPlot)(element, shown.data, shown.layout, options);
  }

  /* Each figure when it comes near, or its fold opens; the others when there is time, so that paper finds them drawn. */
  const places = [...document.querySelectorAll(".figure")];
  const isOpen = (element) => element.closest("details:not([open])") === null;
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        watcher.unobserve(target);
        if (!drawn.has(target)) draw(target);
      }
    }
  }, { rootMargin: "600px" });
  places.forEach((element) => watcher.observe(element));
  const later = window.requestIdleCallback ?? ((work) => setTimeout(work, 100));
  function drawNext() {
    const next = places.find((element) => isOpen(element) && !drawn.has(element));
    if (next) draw(next).then(() => later(drawNext));
  }
  later(drawNext);
  dark.addEventListener("change", () => drawn.forEach((element) => draw(element))); // on paper everything is light

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

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  document.querySelectorAll("[data-download]").forEach((button) => button.addEventListener("click", async () => {
    const text = await block("data");
    const what = button.dataset.download;
    if (what === "json") save("lora-profiler.json", "application/json", text);
    if (what === "runs") save("runs.csv", "text/csv", runs(JSON.parse(text)));
    if (what === "comparisons") save("comparisons.csv", "text/csv", comparisons(JSON.parse(text)));
  }));
  document.querySelector(".downloads").hidden = false;
})();
