
// --- peaks and verdicts --------------------------------------------------------------------------
// The same peaks as `lora_profiler.planning.engine.peak_bytes`, of the polynomials in a model's file.

let data;
const METHODS = ["full", "lora", "qlora"];

// From here on `data` is of that model; null where its file cannot be loaded.
async function choose(id) {
  const packed = await fileOf(id);
  if (packed === null) return null;
  const found = await unpacked(packed);
  found.tables = found.tables.map(table);
  found.tapes.sizes = found.tapes.sizes.map((size) => size.map?.((one) => (one.map ? table(one) : one)) ?? size);
  data = found;
  globalThis.loraProfiler = { data, answer, smallestCard, timeOf, choose };
  return data;
}

// A script, since a page that is opened from disk may fetch nothing.
function fileOf(id) {
  return new Promise((resolve) => {
    if (id in packedModels) return resolve(packedModels[id]);
    const script = document.createElement("script");
    globalThis.received = (packed) => resolve((packedModels[id] = packed));
    script.addEventListener("error", () => resolve(null));
    script.src = modelFiles[id];
    document.head.append(script);
  });
}

async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// [monomials, rows of coefficients] of differences by column.
function table([monomials, differences]) {
  const columns = differences.map(sums);
  return [monomials, (columns[0] ?? []).map((_, n) => columns.map((column) => column[n]))];
}

// Of several polynomials; the seventh exponent of a monomial is which of `numbers` is a factor.
function valueOf([monomials, rows], { batch, length, rank }, numbers = []) {
  const rounded = (multiple) => Math.ceil(length / multiple) * multiple;
  const symbols = [batch, length, rank, rounded(32), rounded(16), rounded(8)].map(BigInt);
  const values = monomials.map((powers) => {
    const factor = powers[6] ? BigInt(numbers[powers[6] - 1]) : 1n;
    return symbols.reduce((product, symbol, n) => product * symbol ** BigInt(powers[n]), factor);
  });
  return rows.map((row) => row.reduce((sum, c, n) => sum + BigInt(c) * values[n], 0n));
}

// --- `space.peaks.Law`: what coefficients follow from beside the sizes ----------------

const OFFLOADED = 8, MOST_PARTS = 3;
const EIGHTH = 8, ROWS = 128, TILE_ROWS = 4096;
const OPTIMIZERS = { adamw_8bit: eightBitStates, paged_adamw_32bit: pagedStates };

const LOSSES = {
  plain: () => [0, []],
  trl: ({ batch, length }) => {
    const labels = batch * (length - 1);
    return [+(labels > TILE_ROWS) + +(labels > 2 * TILE_ROWS), []];
  },
  fused: ({ model, batch, length }) => {
    const each = Math.ceil((batch * length) / Math.ceil(model.vocab / model.width));
    return [0, [powerOfTwo((power) => power >= each)]];
  },
  torchtune: ({ model, batch, length }) => {
    const tokens = batch * (length - 1), rest = tokens % EIGHTH;
    if (model.vocab % 4 || model.width % 4) return [rest, [(tokens - rest) / EIGHTH]];
    return [0, Array.from({ length: EIGHTH - 1 }, (_, n) => +(rest === n + 1))];
  },
  litgpt: ({ batch, length }, frozen) => {
    if (!frozen) {
      const parts = Math.ceil((batch * (length - 1)) / ROWS);
      return [2 * Math.min(parts, MOST_PARTS), [parts]];
    }
    const parts = Math.ceil(length / ROWS), empty = +(length % ROWS === 1);
    return [2 * Math.min(parts - empty, MOST_PARTS) + empty, [parts]];
  },
  unsloth: ({ model, card, batch, length }, frozen) => {
    const { vocab, width } = model, tokens = batch * (length - 1);
    const below = powerOfTwo((power) => 2 * power > Math.floor((512 * 151936) / vocab));
    const least = Math.min(Math.max(512, below), 4096);
    let rows = least;
    for (let power = least; power < 4096; power *= 2) if (tokens * width >= 2 * power * vocab) rows += power;
    rows = Math.min(rows, Math.max(Math.floor(2 ** 31 / (4 * vocab)), 2));
    const tiled = frozen && vocab > 2 * 16384 && (card ? card.bfloat16 : true) && tokens >= (card?.small ? 1 : 4096);
    if (tiled) rows = 4096;
    const parts = Math.max(Math.ceil(tokens / rows), 1);
    return [2 * Math.min(parts, MOST_PARTS) + tiled, parts > 1 ? [rows, (parts - 1) * rows] : [0, 0]];
  },
};

function powerOfTwo(suffices) {
  let power = 1;
  while (!suffices(power)) power *= 2;
  return power;
}

// [kind, numbers].
function sizedBy([loss, offloads, , , , frozen], way, on) {
  const [kind, numbers] = LOSSES[loss](way, frozen);
  const offloaded = offloads && on && way.batch * way.length * way.model.hidden > 2 ** 20;
  return [kind + (offloaded ? OFFLOADED : 0), numbers];
}

// Bytes that every moment has beside what is in the tables: states of adapters, tables of positions.
function lastingOf([, , optimizer, ofPosition, compiles], { model, length, rank }) {
  const states = optimizer ? statesOf(optimizer, model, rank) : 0;
  return BigInt(states + (ofPosition ? ofPosition * positionsOf(model, length, compiles) : 0));
}

// Bytes of the optimizer's states of adapters of this rank.
function statesOf(optimizer, model, rank) {
  return OPTIMIZERS[optimizer](model.adapters.map(([width, count]) => [width * rank, count]));
}

function eightBitStates(tensors) {
  const size = (numel) => (numel < 4096 ? 8 * numel : 2 * (numel + 4 * Math.ceil(numel / 256)));
  const books = tensors.some(([numel]) => numel >= 4096) ? 2 * 1024 : 0;
  return tensors.reduce((sum, [numel, count]) => sum + count * size(numel), books);
}

function pagedStates(tensors) {
  return tensors.reduce((sum, [numel, count]) => sum + (numel < 100000 ? 8 * count * numel : 0), 0);
}

function positionsOf(model, length, compiles) {
  let positions = Math.max(model.positions, length);
  if (compiles) positions = Math.min(positions, Math.max(32768, length));
  return positions > 32768 ? roundedUp(positions, 8192) : positions;
}

// --- a question ----------------------------------------------------------------------------------
// {model, card, trainer, method, rank, batch, length, checkpointing}; no card is null, checkpointing
// as the trainer's guides pass it is undefined.

// {refusal}, or {size, on, doubt}, and on a card the verdict; `doubt` is the share by which the size
// may be off.
function answer(way) {
  const known = placeOf(way);
  if (known < 0) return { refusal: data.refusals[~known] };
  const { law, on, leaves } = data.ways[known], checkpointing = way.checkpointing ?? Boolean(on);
  const leaf = leaves[+checkpointing];
  if (leaf < 0) return { refusal: data.refusals[~leaf] };
  const [tables, tapes, doubts, helds] = data.leaves[leaf], ofRank = 4 * way.model.starts.length;
  const at = sizesAt(way) + (tables.length > ofRank && way.rank === data.rank ? ofRank : 0);
  const [kind, numbers] = sizedBy(law, way, checkpointing);
  const places = data.places[tables[at]];
  const place = places.findIndex((other, n) => n % 2 === 0 && other === kind) + 1;
  if (!place) return { refusal: "this page cannot answer this; ask the command." };
  const sizes = valueOf(data.tables[places[place]], way, numbers);
  const size = sizes.reduce((most, one) => (one > most ? one : most)) + lastingOf(law, way);
  const doubt = doubts[at];
  if (!way.card) return { size: Number(size), on: checkpointing, doubt };
  const states = law[2] ? statesOf(law[2], way.model, way.rank) : 0;
  const held = data.helds[helds[at]];
  const lasting = BigInt(held[0] + states) + BigInt(held[1]) * BigInt(way.rank);
  return new Judged(way, size, lasting, tapes[at], checkpointing, doubt);
}

// Of its kernels, among all ways.
function placeOf({ model, card, trainer, method }) {
  const kinds = model.ways[data.trainers.indexOf(trainer)][METHODS.indexOf(method)];
  return kinds[card ? card.kernels : data.usual];
}

// Beyond a window a length that is no multiple of the alignment pads its masks.
function sizesAt({ model, batch, length }) {
  const span = model.starts.findLastIndex((start) => start <= length);
  return 2 * (model.starts.length * +(batch > 1) + span) + +(length % data.alignment === 0);
}

// What to keep free on the card beside a peak, and the verdict: `planning.simulated.Judged`.
class Judged {
  constructor(way, size, lasting, tape, on, doubt) {
    const { card } = way, [percent, most] = data.fragmentation.map(BigInt);
    Object.assign(this, { way, tape, on, doubt, size: Number(size) });
    const holes = (bytes) => Number(((BigInt(bytes) - lasting) * percent) / 100n + most);
    this.holes = holes(size);
    this.context = card.contexts[1];
    this.bound = this.context + card.workspaces + this.holes;
    this.least = card.contexts[0] + card.workspaces;
    const judge = (bytes) => {
      const left = card.usable - bytes, bound = this.context + card.workspaces + holes(bytes);
      return bound <= left ? "fits" : this.least <= left ? "tight" : "does_not_fit";
    };
    const spread = Math.trunc(doubt * this.size);
    const verdicts = new Set([-spread, 0, spread].map((off) => judge(this.size + off)));
    this.byBound = verdicts.size > 1 ? "tight" : judge(this.size);
  }

  // null where there is no tape.
  get trials() {
    if (this.known === undefined) this.known = trialsOf(this.tape, this.way);
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
    const needed =
      (verdict === "fits" ? this.trials.reservedOn(room) : null) ??
      this.trials.smallestCapacity(Math.max(GRAIN, Math.floor(this.size / data.simulated.part)));
    return this.context + workspaces + Math.max(0, needed - this.size - workspaces);
  }
}

// {seconds, tokens: of a step, rate: tokens a second}, interpolated as `space.times` describes; null
// where no time is known.
function timeOf(way, on) {
  const known = placeOf(way);
  if (!way.card || known < 0) return null;
  const time = data.times[data.ways[known].times[+on]], own = time?.gpus[way.card.place];
  if (!own) return null;
  const tokens = way.batch * way.length, update = own.at(-1), squared = own.at(-2);
  const last = data.tokens.length - 2, place = data.tokens.findLastIndex((one) => one <= tokens);
  const at = Math.min(Math.max(place, 0), last), [low, high] = data.tokens.slice(at, at + 2);
  const part = Math.max(0, (tokens - low) / (high - low));
  const between = (values) => values[at] + part * (values[at + 1] - values[at]);
  const micro = Math.hypot(between(own) + squared * tokens * way.length, between(time.host));
  const seconds = time.steps * micro + update;
  return { seconds, tokens: time.steps * tokens, rate: (time.steps * tokens) / seconds };
}

// `planning.fit.smallest_card` of the question without a card; undefined where none is enough.
function smallestCard(way) {
  const usual = answer({ ...way, card: null }), enough = new Map();
  if (usual.refusal) return undefined;
  const needsBfloat16 = data.ways[placeOf({ ...way, card: null })].bfloat16;
  return data.cards.find((card) => {
    if ((needsBfloat16 && !card.bfloat16) || card.usable < data.near * usual.size) return false;
    const found = answer({ ...way, card }), room = card.usable - card.contexts[1];
    const platform = card.platform, known = enough.get(platform) ?? 2 * card.usable;
    if (room >= known) return true;
    if (found.verdict !== "fits") return false;
    enough.set(platform, room);
    return true;
  });
}
