
// --- CUDA's caching allocator --------------------------------------------------------------------
// `compiled.allocator` and `compiled.trials` over the requests of `compiled.requests`.

const MIB = 2 ** 20, BLOCK = 512, SMALL_REQUEST = MIB, GRAIN = 2 * MIB, EMPTY_CACHE = -(2 ** 31);
const SMALL_SEGMENT = 2 * MIB, LARGE_SEGMENT = 20 * MIB, OWN_SEGMENT = 10 * MIB;
const roundedUp = (number, multiple) => Math.ceil(number / multiple) * multiple;

// Free blocks by size, then address; `ends` has each under both of its own.
class Pool {
  constructor(card, small) {
    Object.assign(this, { card, small, largestTail: small ? 0 : SMALL_REQUEST });
    Object.assign(this, { sizes: [], starts: [], ends: new Map(), segments: new Map(), top: 0 });
  }

  place(size, start) {
    let low = 0, high = this.sizes.length;
    while (low < high) {
      const middle = (low + high) >> 1, other = this.sizes[middle];
      if (other < size || (other === size && this.starts[middle] < start)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  insert(size, start) {
    const at = this.place(size, start), block = [size, start];
    this.sizes.splice(at, 0, size);
    this.starts.splice(at, 0, start);
    this.ends.set(start, block).set(start + size, block);
  }

  withdraw(size, start) {
    this.removeAt(this.place(size, start));
    this.ends.delete(start);
    this.ends.delete(start + size);
  }

  removeAt(at) {
    this.sizes.splice(at, 1);
    this.starts.splice(at, 1);
  }

  // [size, start], null where neither the pool nor the driver has room.
  take(size) {
    const at = this.place(size, 0);
    if (at === this.sizes.length) return this.grow(size) ? this.take(size) : null;
    const whole = this.sizes[at], start = this.starts[at];
    this.removeAt(at);
    this.ends.delete(start);
    this.ends.delete(start + whole);
    if (whole - size <= this.largestTail) return [whole, start];
    this.insert(whole - size, start + size);
    return [size, start];
  }

  give([size, start]) {
    let end = start + size;
    const left = this.ends.get(start), right = this.ends.get(end);
    if (left) {
      this.withdraw(...left);
      start = left[1];
    }
    if (right) {
      this.withdraw(...right);
      end += right[0];
    }
    this.insert(end - start, start);
  }

  grow(size) {
    const own = size < OWN_SEGMENT ? LARGE_SEGMENT : roundedUp(size, GRAIN);
    const segment = this.small ? SMALL_SEGMENT : own;
    if (this.card.reserved + segment > this.card.capacity) return false;
    this.card.reserved += segment;
    this.card.peak = Math.max(this.card.peak, this.card.reserved);
    this.segments.set(this.top, segment);
    this.give([segment, this.top]);
    this.top += segment + GRAIN;
    return true;
  }

  release() {
    const blocks = this.sizes.map((size, at) => [size, this.starts[at]]);
    for (const [size, start] of blocks.filter(([size, start]) => this.segments.get(start) === size)) {
      this.withdraw(size, start);
      this.segments.delete(start);
      this.card.reserved -= size;
    }
  }
}

class Trials {
  constructor(sizes, events) {
    this.sizes = sizes.map((size) => roundedUp(size, BLOCK));
    Object.assign(this, { events, completed: [], failed: new Set() });
  }

  completes(capacity) {
    if (this.completed.some(([least, most]) => least <= capacity && capacity <= most)) return true;
    if (this.failed.has(capacity)) return false;
    const peak = this.replayed(capacity);
    if (peak === null) this.failed.add(capacity);
    else this.completed.push([peak, capacity]);
    return peak !== null;
  }

  // The most that it reserves there; null where it does not complete.
  reservedOn(capacity) {
    if (!this.completes(capacity)) return null;
    return this.completed.find(([least, most]) => least <= capacity && capacity <= most)[0];
  }

  smallestCapacity(within) {
    let total = 0, least = 0;
    for (const event of this.events) {
      if (event === EMPTY_CACHE) continue;
      total += event >= 0 ? this.sizes[event] : -this.sizes[~event];
      if (total > least) least = total;
    }
    let tooSmall = roundedUp(least, GRAIN) - GRAIN;
    if (!this.completed.length) this.completes(Infinity);
    const enough = () => Math.min(...this.completed.map(([peak]) => peak));
    while (enough() - tooSmall > within) {
      const capacity = Math.floor(Math.floor((tooSmall + enough()) / 2) / GRAIN) * GRAIN;
      if (!this.completes(capacity)) tooSmall = capacity;
    }
    return enough();
  }

  // What it reserved at most; null where it does not complete.
  replayed(capacity) {
    const { sizes, events } = this, blocks = new Array(sizes.length);
    const card = { capacity, reserved: 0, peak: 0 };
    const small = new Pool(card, true), large = new Pool(card, false);
    const release = () => [large, small].forEach((pool) => pool.release());
    for (const event of events) {
      if (event === EMPTY_CACHE) release();
      else if (event >= 0) {
        const size = sizes[event];
        if (!size) continue;
        const pool = size <= SMALL_REQUEST ? small : large;
        let block = pool.take(size);
        if (!block) {
          release();
          block = pool.take(size);
        }
        if (!block) return null;
        blocks[event] = block;
      } else if (sizes[~event]) {
        const block = blocks[~event];
        (block[0] <= SMALL_REQUEST ? small : large).give(block);
      }
    }
    return card.peak;
  }
}

// --- what training asks it for -------------------------------------------------------------------

const sums = (differences) => {
  let sum = 0;
  return differences.map((difference) => (sum += difference));
};

// Bytes of each of `data.tapes.sizes` that a way has.
function sizeOf(size, way) {
  if (typeof size === "number") return size;
  const { card, batch, length } = way, [kind, one, other] = size;
  const rows = roundedUp(length, data.simulated.rows);
  if (kind === "workspace") return card.workspace;
  if (kind === "size") return Number(valueOf(one, way)[0]);
  if (kind === "rows") {
    const padded = (valueOf(one, way)[0] * BigInt(rows)) / BigInt(length);
    return Number(padded + (valueOf(other, way)[0] ?? 0n));
  }
  const each = Math.ceil((batch * length) / 4);
  if (each < 64 || one < 128) return 0;
  const shared = Math.min(Math.floor(card.room / one), Math.ceil(each / 16));
  const blocks = Math.max(shared, Math.ceil(each / 256));
  return blocks > 1 ? 4 * one * 128 * blocks : 0;
}

let lastTrials = [];

// Of the tape at `place`; null where there is none.
function trialsOf(place, way) {
  if (place === null) return null;
  const { card, batch, length, rank } = way;
  const key = [place, batch, length, rank, card.workspace, card.room].join();
  const known = lastTrials.find(([other]) => other === key);
  if (known) return known[1];
  const trials = new Trials(...requestsOf(data.tapes.ways[place], way));
  lastTrials = [[key, trials], ...lastTrials.slice(0, 15)];
  return trials;
}

function requestsOf([places, before, stretches, onceMore], way) {
  const values = places.map((place) => sizeOf(data.tapes.sizes[place], way));
  const sizes = [], events = [];
  const [asked, differences] = data.tapes.befores[before];
  for (const one of asked) {
    events.push(one >= 0 ? sizes.length : ~(sizes.length - 1 - ~one));
    if (one >= 0) sizes.push(values[one]);
  }
  events.push(EMPTY_CACHE);
  let numbers = sums(differences);
  const last = new Map();
  stretches.forEach(([place, ...homes], at) => {
    if (onceMore && at === onceMore[0]) {
      numbers = numbers.slice(0, onceMore[1]);
      for (const [number, heir] of onceMore[2]) numbers[number] = heir;
    }
    const earlier = last.get(place), born = homes.map((home, n) => home + (earlier ? earlier[n] : 0));
    last.set(place, born);
    stretch(data.tapes.stretches[place], born, { values, sizes, events, numbers });
  });
  return [sizes, events];
}

function stretch([place, own], born, { values, sizes, events, numbers }) {
  const [births, written] = data.tapes.shapes[place];
  const first = sizes.length, lasts = [];
  let taken = 0;
  own.forEach((size) => sizes.push(values[size]));
  sums(births).forEach((birth) => numbers.push(first + birth));
  for (let at = 0; at < written.length; at += 1) {
    const home = written[at];
    if (home === 0) {
      events.push(first + taken);
      taken += 1;
      continue;
    }
    at += 1;
    const number = (lasts[home] ?? 0) + written[at];
    lasts[home] = number;
    events.push(~(home === 1 ? first + number : numbers[born[home - 2] + number]));
  }
}
