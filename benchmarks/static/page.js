
// --- the page without a server -------------------------------------------------------------------
// The same peaks as `lora_profiler.planning.engine.peak_bytes`, of the polynomials in `packed`.

const GIB = 2 ** 30;
const SIGNS = { fits: "✓", tight: "~", does_not_fit: "✗" };
const VERDICTS = { fits: "Fits", tight: "May run out of memory", does_not_fit: "Does not fit" };
const FIELDS = { model: "", method: "lora", rank: "16", card: "", batch: "1", length: "2048", checkpointing: "" };
const SLIDES = { length: "Length", batch: "Batch", rank: "Rank" };
const of = (id) => document.getElementById(id);
const data = await unpacked();
data.tables = data.tables.map(table);
data.tapes.sizes = data.tapes.sizes.map((size) => size.map?.((one) => (one.map ? table(one) : one)) ?? size);

async function unpacked() {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// [monomials, rows of coefficients] of differences by column.
function table([monomials, differences]) {
  const columns = differences.map(sums);
  return [monomials, (columns[0] ?? []).map((_, n) => columns.map((column) => column[n]))];
}

// Bytes of the steady-state peak, exactly. Coefficients below 2^53 are whole in JSON.
function peak(model, kernels, method, checkpointing, batch, length, rank) {
  const place = placeOf(model, model.peaks[kernels][method], checkpointing, batch, length);
  const sizes = valueOf(data.tables[place], { batch, length, rank });
  return sizes.reduce((most, size) => (size > most ? size : most));
}

// The entry for these sizes, of peaks or tapes: beyond a window a length that is no multiple of the
// alignment pads its masks.
function placeOf(model, laidOut, checkpointing, batch, length) {
  const span = model.starts.findLastIndex((start) => start <= length);
  return laidOut[+checkpointing][+(batch > 1)][span][+(length % data.alignment === 0)];
}

// Of several polynomials.
function valueOf([monomials, rows], { batch, length, rank }) {
  const rounded = (multiple) => Math.ceil(length / multiple) * multiple;
  const symbols = [batch, length, rank, rounded(32), rounded(16), rounded(8)].map(BigInt);
  const values = monomials.map((powers) =>
    powers.reduce((product, power, n) => product * symbols[n] ** BigInt(power), 1n),
  );
  return rows.map((row) => row.reduce((sum, c, n) => sum + BigInt(c) * values[n], 0n));
}

// What to keep free on the card beside a peak, and the verdict: `planning.simulated.Judged`.
class Judged {
  constructor(way, size) {
    const { model, card, method, rank } = way;
    const [held, each] = model.held[card.kernels][method].map(BigInt);
    const [percent, most] = data.fragmentation.map(BigInt);
    this.way = way;
    this.size = Number(size);
    this.holes = Number(((size - held - each * BigInt(rank)) * percent) / 100n + most);
    this.context = card.contexts[1];
    this.bound = this.context + card.workspaces + this.holes;
    this.least = card.contexts[0] + card.workspaces;
    const left = card.usable - this.size;
    this.byBound = this.bound <= left ? "fits" : this.least <= left ? "tight" : "does_not_fit";
  }

  // null where there is no tape.
  get trials() {
    if (this.known === undefined) this.known = trialsOf(this.way);
    return this.known;
  }

  get verdict() {
    const { usable } = this.way.card;
    const spare = usable - this.size - this.bound;
    if (spare >= (data.simulated.sure - 1) * this.holes || this.byBound === "does_not_fit" || !this.trials)
      return this.byBound;
    return this.trials.completes(usable - this.context) ? "fits" : "tight";
  }

  get reserve() {
    const { verdict } = this;
    if (verdict === "does_not_fit") return this.least;
    if (!this.trials) return this.bound;
    const { usable, workspaces } = this.way.card, room = usable - this.context;
    let needed = this.trials.smallestCapacity(Math.max(GRAIN, Math.floor(this.size / data.simulated.part)));
    if (verdict === "fits") needed = Math.min(needed, room);
    return this.context + workspaces + Math.max(0, needed - this.size - workspaces);
  }
}

globalThis.loraProfiler = { data, answer };

// --- what is asked -------------------------------------------------------------------------------

function asked() {
  const number = (id) => Math.min(Math.max(Math.trunc(of(id).value) || 1, +of(id).min), +of(id).max);
  return {
    model: data.models.find((model) => model.id === of("model").value),
    card: data.cards.find((card) => card.key === of("card").value),
    method: of("method").value,
    rank: number("rank"),
    batch: number("batch"),
    length: number("length"),
    checkpointing: of("checkpointing").checked,
  };
}

function answer(way) {
  const { model, card, method, checkpointing, batch, length, rank } = way;
  return new Judged(way, peak(model, card.kernels, method, checkpointing, batch, length, rank));
}

// --- what is shown -------------------------------------------------------------------------------

const inGib = (bytes) =>
  (Number(bytes) / GIB).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const label = (method, rank) => ({ full: "full", lora: `LoRA r${rank}`, qlora: `QLoRA r${rank}` })[method];

// As `report.card.Frame.parts`: the scale ends at two memories of the card.
function parts(found, card) {
  const scale = 2 * card.usable, percent = (size) => Math.min(100, (100 * size) / scale);
  const { size } = found, total = size + found.reserve;
  const ends = [["peak", 0, size], ["reserve", size, total]];
  return ends
    .flatMap(([kind, low, high]) => [
      [kind, low, Math.min(high, card.usable)],
      [`${kind}-over`, Math.max(low, card.usable), high],
    ])
    .filter(([, low, high]) => low < high)
    .map(([kind, low, high]) => [kind, percent(low), percent(high)]);
}

function show() {
  const way = asked(), found = answer(way), card = way.card;
  const [words, numbers] = of("verdict").firstElementChild.children;
  of("verdict").className = `lp lp-verdict lp-is-${found.verdict}`;
  words.textContent = `${VERDICTS[found.verdict]}: `;
  const most = found.verdict === "does_not_fit" ? "at least " : found.trials ? "" : "up to ";
  numbers.textContent = `${inGib(found.size)} and ${most}${inGib(found.reserve)} reserve, of ${inGib(card.usable)} GiB`;
  document.querySelector(".lp-scale .lp-track span").textContent = `${card.name}, ${inGib(card.usable)}`;
  const bars = ["full", "lora", "qlora"].map((method) => {
    const each = answer({ ...way, method });
    const number = `${SIGNS[each.verdict]} ${inGib(each.size)}`;
    const cut = each.size + each.reserve > 2 * card.usable;
    return { method, label: label(method, way.rank), number, parts: parts(each, card), cut };
  });
  const told = bars.map((bar) => `${bar.label}: ${bar.number} GiB`).join("; ");
  draw({ words: `Bars of the peak of each method on ${card.name}. ${told}.`, bars });
  document.querySelectorAll(".lp-bar").forEach((row) =>
    row.classList.toggle("lp-chosen", row.dataset.method === way.method),
  );
  offer(way, found);
  of("command").textContent = command(way);
}

// Sliders over the usual sizes and the one that is asked: the bars move with them.
function slide() {
  const way = asked();
  const rows = Object.entries(SLIDES).map(([id, label]) => {
    const usual = id === "length" ? way.model.lengths : data.stops[id];
    const stops = [...new Set([...usual, way[id]])].sort((one, other) => one - other);
    const texts = stops.map((stop) => stop.toLocaleString("en-US"));
    const dragged = (at) => {
      of(id).value = stops[at];
      show();
    };
    return field({ label, stops, texts, place: stops.indexOf(way[id]) }, dragged, keep);
  });
  document.querySelector(".lp-slides").replaceChildren(...rows);
}

// Another question, from a field or a button.
function change() {
  show();
  slide();
  keep();
}

// Changes that make it fit, the one that trains the same first.
function offer(way, found) {
  const changes = [
    ["Gradient checkpointing", { checkpointing: true }],
    ["A 4-bit base (QLoRA)", { method: "qlora" }],
    ["A 4-bit base and gradient checkpointing", { method: "qlora", checkpointing: true }],
  ];
  const rows = changes
    .filter(([, then]) => found.verdict !== "fits" && Object.keys(then).some((n) => way[n] !== then[n]))
    .map(([words, then]) => [words, then, answer({ ...way, ...then })])
    .filter(([, , changed]) => changed.verdict === "fits")
    .map(([words, then, changed]) => {
      const row = document.createElement("p"), apply = document.createElement("button");
      Object.assign(apply, { type: "button", textContent: "Apply" });
      apply.addEventListener("click", () => {
        if (then.method) of("method").value = then.method;
        if (then.checkpointing) of("checkpointing").checked = true;
        change();
      });
      row.append(apply, `${words}: ${inGib(changed.size)} GiB`);
      return row;
    });
  of("offers").replaceChildren(...rows);
}

function command(way) {
  const words = ["lora-profile", way.model.id, "--method", way.method];
  if (way.method !== "full" && way.rank !== 16) words.push("-r", way.rank);
  if (way.batch !== 1) words.push("-b", way.batch);
  if (way.length !== 2048) words.push("-s", way.length);
  if (way.checkpointing) words.push("--checkpointing");
  return [...words, "--gpu", way.card.key].join(" ");
}

// --- the address ---------------------------------------------------------------------------------

function fields() {
  const said = Object.keys(FIELDS).map((id) => [id, of(id).type === "checkbox" ? (of(id).checked ? "yes" : "") : of(id).value]);
  return Object.fromEntries(said);
}

// Not while a slider is dragged: browsers allow few changes of an address in a second.
function keep() {
  const said = Object.entries(fields()).filter(([id, value]) => value !== FIELDS[id]);
  history.replaceState(null, "", `#${new URLSearchParams(said)}`);
}

function begin() {
  const add = (id, value, text) => of(id).append(new Option(text, value));
  data.models.forEach((model) => add("model", model.id, model.id));
  data.cards.forEach((card) => add("card", card.key, card.name));
  [FIELDS.model, FIELDS.card] = data.first;
  const asked = { ...FIELDS, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  for (const id of Object.keys(FIELDS)) {
    if (of(id).type === "checkbox") of(id).checked = asked[id] === "yes";
    else of(id).value = asked[id];
    if (!of(id).value) of(id).value = FIELDS[id]; // what no list has
  }
  of("ask").addEventListener("input", change);
  of("ask").addEventListener("submit", (event) => event.preventDefault());
  change();
}

begin();
