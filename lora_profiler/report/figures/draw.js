"use strict";
/* Draws figures of `report.charts` with plotly: as wide as their place, in the reader's colours, and with their numbers to save. */
const lpFigures = (() => {
  const ABOVE_PX = 18, SMALL_PX = 12, HEAD_PX = 14, LEAST_PX = 3, APART_PX = 4;
  const pen = document.createElement("canvas").getContext("2d");

  /* Text of a figure, whose marks are <br> and <b> alone, as it is read. */
  const plain = (text) => String(text ?? "").replace(/<\/?b>/g, "").replace(/<br>/g, ", ")
    .replace(/&lt;/g, "<").replace(/&amp;/g, "&").trim();

  function widest(texts, px, look) {
    pen.font = `${px}px ${look.font.family}`;
    return Math.max(0, ...texts.flatMap((text) => String(text).split("<br>")).map((line) => pen.measureText(plain(line)).width));
  }

  /* In lines of so many letters at most. */
  function wrapped(text, letters) {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (plain(longer).length <= letters || !lines.at(-1)) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines.join("<br>");
  }

  /* No wider than so many pixels; a character may be written as an entity. */
  function shortened(text, px, width, look) {
    const letters = text.match(/&\w+;|<br>|[^]/gu) ?? [];
    if (widest([text], px, look) <= width) return text;
    while (letters.length && widest([`${letters.join("")}…`], px, look) > width) letters.pop();
    return `${letters.join("")}…`;
  }

  const share = (axis, value) => ((axis.type === "log" ? Math.log10(value) : value) - axis.range[0]) / (axis.range[1] - axis.range[0]);

  /* Another colour in place of each. Text stays, even where it spells one. */
  function repainted(value, colours, isColour) {
    if (Array.isArray(value)) return value.map((part) => repainted(part, colours, isColour));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, repainted(part, colours, /color$/.test(name))]));
    }
    return isColour ? colours[value] ?? value : value;
  }

  /* The figure with room for its words in `width` pixels. Its layout's height is that of the plane alone. */
  function fitted({ data, layout }, width, look) {
    const { xaxis: x, yaxis: y } = layout;
    let { height } = layout, thicker = 1;
    const notes = [...layout.annotations ?? []];
    const labels = y.ticktext ?? [];
    const yTitle = wrapped(y.title?.text ?? "", height / 7);
    let left = widest(labels, SMALL_PX, look) + (yTitle ? 16 * yTitle.split("<br>").length + 8 : 0) + 16;
    const rows = { ...y, title: { ...y.title, text: yTitle } };
    if (left > width / 3 && y.range && labels.length) { // long names stand above their rows
      const span = Math.abs(y.range[1] - y.range[0]), before = height / span, row = before + ABOVE_PX;
      const bar = data.find(({ type }) => type === "bar"), thick = bar ? bar.width * before : 0.7 * row;
      height = span * row;
      thicker = before / row;
      rows.showticklabels = false;
      labels.forEach((text, n) => notes.push({
        text: shortened(text.replace(/<br>/g, ", "), SMALL_PX, width - 20, look), font: y.tickfont, showarrow: false, name: "row",
        x: 0, xref: "paper", xanchor: "left", y: y.tickvals[n], yanchor: "bottom", yshift: thick / 2, borderpad: 0,
      }));
      left = 10;
    }
    const ends = data.filter(({ textposition }) => textposition === "middle right");
    const right = Math.max(16, ...ends.flatMap((trace) => trace.x.map((at, n) => {
      const begin = Math.max(share(x, at), 0.1);
      return (widest([trace.text[n]], 13, look) + trace.marker.size - (1 - begin) * (width - left)) / begin;
    })));
    const plane = width - left - right;
    const columns = { ...x };
    if (x.title?.text) columns.title = { ...x.title, text: wrapped(x.title.text, plane / 6.6) };
    if (x.nticks) columns.nticks = Math.max(2, Math.min(x.nticks, Math.floor(plane / 50)));
    if (x.ticktext) { // as many as there is room for
      const each = x.tickangle ? 1.75 * SMALL_PX : widest(x.ticktext, SMALL_PX, look) + 10;
      const every = Math.max(1, Math.ceil(x.ticktext.length * each / plane));
      Object.assign(columns, { tickvals: x.tickvals.filter((_, n) => n % every === 0), ticktext: x.ticktext.filter((_, n) => n % every === 0) });
    }
    const room = ({ x: at, xref, xanchor }) => { // of a note, to the end of the figure
      const begin = xref === "paper" ? at : (at - x.range?.[0]) / (x.range?.[1] - x.range?.[0]);
      const before = left + begin * plane, after = width - before;
      return xanchor === "left" ? after : xanchor === "right" ? before : plane;
    };
    return {
      data: data.map((trace) => ({
        cliponaxis: false, ...trace, name: trace.name && shortened(trace.name, SMALL_PX, width - left - 45, look),
        ...trace.orientation === "h" && { width: thicker * trace.width },
      })),
      layout: {
        ...layout, xaxis: columns, yaxis: rows, width, height: height + 500, template: { layout: look },
        margin: { l: 4, r: Math.round(right), t: 8, b: 4 }, meta: { plane: height },
        dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
        annotations: notes.map((note) => ({
          ...note, align: note.xanchor, text: note.font?.size === HEAD_PX ? shortened(note.text, HEAD_PX, plane + right - 24, look)
            : note.name ? note.text : wrapped(note.text, (room(note) || plane) / 6.6),
        })),
      },
    };
  }

  /* Where a note may stand, first as it is: what changes, and its box there to a pixel, as plotly rounds. A name beside a mark stands around it; that of a part of the axis in one of two lines, within the plane. */
  const places = {
    beside: ({ xshift, yshift }, box) => ["bottom", "top", "middle"].flatMap((yanchor) => ["left", "right", "center"].map((xanchor) => {
      const side = { left: 1, right: -1, center: 0 }[xanchor], up = { bottom: 1, top: -1, middle: 0 }[yanchor];
      const moved = [(side - 1) * (xshift + box.width / 2), (1 - up) * (yshift + box.height / 2)];
      return [{ xanchor, yanchor, xshift: side * xshift, yshift: up * yshift }, ...moved];
    })).slice(0, -1),
    part: (_, box, plane) => [0, 1.25 * box.height].map((down) => {
      const xshift = Math.ceil(Math.max(0, plane.left + 1 - box.left)) - Math.ceil(Math.max(0, box.right + 1 - plane.right));
      return [{ xshift, yshift: -down }, xshift, down];
    }),
  };

  /* What changes so that no note runs out of the figure, or into other words or a mark: the later ones stay. */
  function parted(plot) {
    const all = plot.getBoundingClientRect(), { l, t, w, h } = plot._fullLayout._size;
    const plane = new DOMRect(all.x + l, all.y + t, w, h);
    const boxes = (selector) => [...plot.querySelectorAll(selector)].map((e) => e.getBoundingClientRect());
    const taken = boxes(".textpoint text, .legend, .scatterlayer .point, .xtick text, .ytick text");
    const meets = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > -APART_PX
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > LEAST_PX;
    const changed = {};
    for (const drawing of [...plot.querySelectorAll(".annotation")].reverse()) {
      const box = drawing.querySelector("text")?.getBoundingClientRect();
      if (!box?.width) continue;
      const note = plot.layout.annotations[drawing.dataset.index], tried = places[note.name]?.(note, box, plane);
      const inside = ({ left, right, top, bottom }) => tried
        ? left >= plane.left && right <= plane.right && top >= plane.top - LEAST_PX && bottom <= plane.bottom
        : left >= all.left - 1 && right <= all.right + 1;
      const found = (tried ?? [[{}, 0, 0]]).map(([changes, x, y]) => [changes, new DOMRect(box.x + x - 1, box.y + y - 1, box.width + 2, box.height + 2)])
        .find(([, at]) => inside(at) && !taken.some((other) => meets(at, other)));
      for (const [name, value] of Object.entries(found?.[0] ?? { visible: false })) changed[`annotations[${drawing.dataset.index}].${name}`] = value;
      if (found) taken.push(found[1]);
    }
    return changed;
  }

  async function drawn(plot, figure, width, look, colours) {
    const { data, layout } = repainted(fitted(figure, width, look), colours);
    await Plotly.react(plot, data, layout, { displayModeBar: false, doubleClick: "reset" });
    const { height: before, _size: { h: now } } = plot._fullLayout;
    await Plotly.relayout(plot, { height: Math.round(before + layout.meta.plane - now) });
    const changed = parted(plot);
    if (Object.keys(changed).length) await Plotly.relayout(plot, changed);
  }

  /* What the figure shows, a line a mark. */
  function csv({ data, layout: { xaxis, yaxis } }) {
    const cell = (value) => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
    const named = (axis, value) => axis.ticktext?.[axis.tickvals?.indexOf(value)] ?? value;
    const rows = data.filter(({ hoverinfo }) => hoverinfo !== "skip").flatMap((trace) => trace.x.map((at, n) => [
      trace.name, at, named(yaxis, trace.y[n]), trace.hovertext?.[n],
    ]));
    const head = ["series", plain(xaxis.title?.text) || "x", plain(yaxis.title?.text) || "row", "in words"];
    return [head, ...rows].map((row) => row.map((value) => cell(plain(value))).join(",")).join("\n") + "\n";
  }

  function save(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    download(name, url);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  const download = (name, href) => Object.assign(document.createElement("a"), { href, download: name }).click();

  /* The figure under its caption, as text of SVG or a URL of PNG. */
  async function picture(plot, caption, format) {
    const { width, height, font, _size: { t } } = plot._fullLayout;
    const title = wrapped((caption ?? "").split(/;|\.(?= |$)/)[0], width / 7.5), above = title ? 17 * title.split("<br>").length + 14 : 0;
    const layout = {
      ...plot.layout, height: height + above, margin: { ...plot.layout.margin, t: t + above },
      title: { text: title, x: 0, xref: "paper", y: 1, yref: "container", yanchor: "top", pad: { t: 8 }, font: { ...font, size: HEAD_PX } },
    };
    const made = await Plotly.toImage({ data: plot.data, layout }, { format, width, height: height + above, scale: format === "png" ? 2 : 1 });
    return { width, height: height + above, url: made, text: format === "svg" ? decodeURIComponent(made.slice(made.indexOf(",") + 1)) : "" };
  }

  /* Opens the browser's print dialog, which saves vectors as PDF, on a page as large as the figure. */
  function print({ width, height, text }) {
    const frame = Object.assign(document.createElement("iframe"), { className: "lp-print", title: "The figure to print" });
    Object.assign(frame.style, { position: "fixed", width: 0, height: 0, border: 0 });
    frame.srcdoc = `<style>@page { size: ${width}px ${height}px; margin: 0 } body { margin: 0 } svg { display: block }</style>${text}`;
    frame.onload = () => {
      frame.contentWindow.onafterprint = () => frame.remove();
      frame.contentWindow.print();
    };
    document.body.append(frame);
  }

  function buttons(plot, name, current, caption) {
    const place = Object.assign(document.createElement("p"), { className: "lp-save" });
    for (const [what, make] of [
      ["SVG", async () => save(`${name}.svg`, "image/svg+xml", (await picture(plot, caption, "svg")).text)],
      ["PNG", async () => download(`${name}.png`, (await picture(plot, caption, "png")).url)],
      ["PDF", async () => print(await picture(plot, caption, "svg"))],
      ["CSV", () => save(`${name}.csv`, "text/csv", csv(current()))],
    ]) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: what, onclick: make });
      button.setAttribute("aria-label", `Save this figure as ${what}`);
      place.append(button);
    }
    return place;
  }

  /* Draws in `place`, a div of the page, whenever its width changes; `colours` says what stands for each colour just now.
     A saved picture has the caption above it. The answer draws it anew. */
  function show(place, name, figure, look, colours, caption) {
    const plot = place.querySelector(".lp-plot");
    const inner = document.createElement("div");
    let width = 0, wanted = figure, last = Promise.resolve();
    plot.replaceChildren(inner);
    place.append(buttons(inner, name, () => wanted, caption));
    const redraw = (changed = wanted) => {
      wanted = changed;
      width = plot.clientWidth;
      if (width) last = last.catch(() => {}).then(() => drawn(inner, wanted, Math.max(width, wanted.layout.meta?.least ?? 0), look, colours()));
      return last;
    };
    new ResizeObserver(() => plot.clientWidth !== width && redraw()).observe(plot);
    redraw();
    return redraw;
  }

  return { show, save };
})();
