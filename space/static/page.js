
// --- what is asked -------------------------------------------------------------------------------

const GIB = 2 ** 30;
const VERDICTS = { fits: "fits", tight: "may run out of memory", does_not_fit: "does not fit" };
const SIGNS = { fits: "✓", tight: "~", does_not_fit: "✗" };
const FIELDS = {
  model: "", method: "lora", rank: "16", trainer: "", card: "", batch: "1", length: "2048", checkpointing: "",
}; // of a question that says no more; the length is the model's
const LONG = { "-r": "rank", "-b": "batch-size", "-s": "seq-len" };
const DASHBOARD = "http://127.0.0.1:8501/";
const SLIDES = { length: "Length", batch: "Batch", rank: "Rank" };
const of = (id) => document.getElementById(id);

function asked() {
  const number = (id) => Math.min(Math.max(Math.trunc(of(id).value) || 1, +of(id).min), +of(id).max);
  return {
    model: data.model,
    card: data.cards.find((card) => card.key === of("card").value) ?? null,
    trainer: data.trainers.find((trainer) => trainer.name === of("trainer").value),
    method: of("method").value,
    rank: number("rank"),
    batch: number("batch"),
    length: number("length"),
    checkpointing: { on: true, off: false }[of("checkpointing").value],
  };
}

// --- what is shown -------------------------------------------------------------------------------

const inGib = (bytes) =>
  (bytes / GIB).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const label = (method, rank) => ({ full: "full", lora: `LoRA r${rank}`, qlora: `QLoRA r${rank}` })[method];
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function show() {
  const way = asked(), found = answer(way);
  of("rank").disabled = way.method === "full";
  of("verdict").className = found.verdict ?? "";
  of("verdict").textContent = found.refusal ? "Not possible" : headline(found);
  of("numbers").textContent = found.refusal ?? numbers(found, way.card) + estimated(found.doubt);
  of("time").textContent = found.refusal ? "" : speed(timeOf(way, found.on));
  bars(way);
  trainers(way);
  offer(way, found);
  of("command").textContent = command(way);
  of("dashboard").href = `${DASHBOARD}?${parameters(command(way).split(" ").slice(1))}`;
  smallest(way, found);
}

function headline(found) {
  return found.verdict ? capital(VERDICTS[found.verdict]) : `Needs ${inGib(found.size)} GiB`;
}

// Peak, overhead and what is free or over add up to what the card gives a program.
function numbers(found, card) {
  const checkpointing = `gradient checkpointing ${found.on ? "on" : "off"}`;
  if (!card) return `${capital(checkpointing)}. Choose a GPU to add PyTorch's overhead.`;
  const left = card.usable - found.size - found.reserve;
  const rest = left < 0 ? `${inGib(-left)} over` : `${inGib(left)} free`;
  const overhead = found.verdict === "fits" && !found.trials ? "at most " : "";
  return (
    `Peak ${inGib(found.size)} + ${overhead}${inGib(found.reserve)} overhead, of ` +
    `${inGib(card.usable)} GiB: ${rest}; ${checkpointing}.`
  );
}

function estimated(doubt) {
  return doubt ? ` Within ${Number((100 * doubt).toPrecision(2))} %: estimated from the model's layers.` : "";
}

function speed(time) {
  if (!time) return "";
  const step = `a step of ${time.tokens.toLocaleString("en-US")} tokens takes ${duration(time.seconds)}`;
  return `About ${rounded(time.rate)} tokens/s: ${step}.`;
}

// To the digits that the interpolation is worth.
function rounded(rate) {
  return Number(rate.toPrecision(2)).toLocaleString("en-US");
}

function duration(seconds) {
  return seconds < 1 ? `${Number((1000 * seconds).toPrecision(2))} ms` : `${Number(seconds.toPrecision(2))} s`;
}

// Worked out after what is shown at once: it asks about one GPU after another.
let waiting = 0;

function smallest(way, found) {
  clearTimeout(waiting);
  of("smallest").textContent = "Smallest GPU that fits: …";
  waiting = setTimeout(() => {
    if (way.model !== data.model) return; // another was chosen meanwhile, and is shown in turn
    const card = found.refusal ? undefined : smallestCard(way);
    const words = card ? `${card.name}, ${card.memory} GB` : "none";
    of("smallest").textContent = `Smallest GPU that fits: ${words}`;
  }, 120);
}

// A bar a method, on a scale that ends at two memories of the card.
function bars(way) {
  const found = METHODS.map((method) => answer({ ...way, method }));
  const most = Math.max(1, ...found.map((one) => one.size ?? 0));
  const edge = way.card?.usable ?? most, scale = way.card ? 2 * edge : most;
  of("scale").textContent = way.card ? `${way.card.name}, ${inGib(edge)} GiB` : "";
  of("bars").replaceChildren(
    ...found.map((one, n) => {
      const row = element("div", undefined, METHODS[n] === way.method ? "row chosen" : "row");
      const track = element("div", undefined, "track"), reserve = way.card && !one.refusal ? one.reserve : 0;
      const ends = [["peak", 0, one.size ?? 0], ["reserve", one.size ?? 0, (one.size ?? 0) + reserve]];
      for (const [kind, low, high] of ends) {
        for (const [name, from, to] of [[kind, low, Math.min(high, edge)], [`${kind} over`, Math.max(low, edge), high]]) {
          if (from >= to) continue;
          const part = element("i", undefined, name);
          part.style.left = `${Math.min(100, (100 * from) / scale)}%`;
          part.style.width = `${Math.min(100, (100 * to) / scale) - Math.min(100, (100 * from) / scale)}%`;
          track.append(part);
        }
      }
      if (way.card) track.append(element("i", undefined, "edge"));
      const sign = SIGNS[one.verdict] ? `${SIGNS[one.verdict]} ` : "";
      row.append(element("span", label(METHODS[n], way.rank)), track);
      row.append(element("b", one.refusal ? "-" : `${sign}${inGib(one.size)}`));
      return row;
    }),
  );
}

// The same question under each trainer, as its guides pass it, the smallest first.
function trainers(way) {
  const listed = data.trainers.filter((trainer) => trainer.listed);
  const found = listed.map((trainer) => [trainer, answer({ ...way, trainer })]);
  const known = found.filter(([, one]) => !one.refusal).sort(([, one], [, other]) => one.size - other.size);
  of("count").textContent = counted(way, known);
  const rows = known.map(([trainer, one]) => {
    const row = element("tr", undefined, trainer === way.trainer ? "chosen" : "");
    row.append(element("td", trainer.label), element("td", inGib(one.size)));
    if (way.card) {
      const time = timeOf({ ...way, trainer }, one.on);
      row.append(element("td", time ? rounded(time.rate) : ""), element("td", VERDICTS[one.verdict], one.verdict));
    }
    return row;
  });
  const head = element("tr");
  const names = ["trainer", `${label(way.method, way.rank)}, GiB`, ...(way.card ? ["tokens/s", "on this GPU"] : [])];
  head.append(...names.map((name) => element("th", name)));
  of("trainers").replaceChildren(head, ...rows);
  const refused = found.filter(([, one]) => one.refusal);
  of("refused").replaceChildren(...refused.map(([trainer, one]) => element("p", `${trainer.label}: ${one.refusal}`)));
}

// 'LoRA r16 fits with 7 of 8 trainers, does not fit with LitGPT.'
function counted(way, known) {
  if (!way.card || !known.length) return "";
  const some = (names) =>
    names.length === known.length ? `all ${names.length} trainers`
    : names.length <= 2 ? names.join(" and ") : `${names.length} of ${known.length} trainers`;
  const parts = Object.entries(VERDICTS).flatMap(([verdict, words]) => {
    const names = known.filter(([, one]) => one.verdict === verdict).map(([trainer]) => trainer.label);
    return names.length ? [`${words} with ${some(names)}`] : [];
  });
  return `${label(way.method, way.rank)} ${parts.join(", ")}.`;
}

// Changes that make it fit, the one that trains the same first.
function offer(way, found) {
  const changes = [
    ["Gradient checkpointing", { checkpointing: true }],
    ["A 4-bit base (QLoRA)", { method: "qlora" }],
    ["A 4-bit base and gradient checkpointing", { method: "qlora", checkpointing: true }],
  ];
  const rows = changes
    .filter(([, then]) => found.verdict && found.verdict !== "fits" && Object.entries(then).some(([name, value]) =>
      name === "checkpointing" ? !found.on : way[name] !== value))
    .map(([words, then]) => [words, then, answer({ ...way, ...then })])
    .filter(([, , changed]) => changed.verdict === "fits")
    .map(([words, then, changed]) => {
      const row = element("p"), apply = element("button", "Apply");
      apply.type = "button";
      apply.addEventListener("click", () => {
        if (then.method) of("method").value = then.method;
        if (then.checkpointing) of("checkpointing").value = "on";
        change();
      });
      row.append(apply, `${words}: ${inGib(changed.size)} GiB, fits`);
      return row;
    });
  of("offers").replaceChildren(...rows);
}

function command(way) {
  const { trainer, method, rank, batch, length, card, checkpointing } = way;
  const named = trainer !== data.trainers[0], found = answer(way);
  const words = ["lora-profile", way.model.id, "--method", method];
  if (named) words.push("--trainer", trainer.name, ...said(way));
  if (method !== "full" && (named || rank !== 16)) words.push("-r", rank);
  if (named || batch !== 1) words.push("-b", batch);
  if (named || length !== way.model.length) words.push("-s", length);
  if (named || checkpointing !== undefined) words.push(found.on ? "--checkpointing" : "--no-checkpointing");
  if (card) words.push("--gpu", card.key);
  return words.join(" ");
}

// Those of the dashboard's address for the words of a command: '--seq-len 512 --checkpointing' is
// seq-len=512&checkpointing=yes.
function parameters([model, ...words]) {
  const found = new URLSearchParams({ model });
  words.forEach((word, n) => {
    if (!word.startsWith("-")) return;
    const value = words[n + 1]?.startsWith("-") ?? true ? null : words[n + 1];
    const name = LONG[word] ?? word.slice(2);
    if (value !== null) found.set(name, value);
    else if (name.startsWith("no-")) found.set(name.slice(3), "no");
    else found.set(name, "yes");
  });
  return found;
}

// What makes of the trainer's own defaults what its guides pass.
function said({ trainer, method, card }) {
  const words = trainer.words[+(card?.bfloat16 ?? true)][METHODS.indexOf(method)];
  return words ? [words] : [];
}

// --- sliders -------------------------------------------------------------------------------------

// Over the usual sizes and the one that is asked: the answer moves with them, and the address
// follows where one is let go.
function slide() {
  const way = asked();
  const rows = Object.entries(SLIDES).map(([id, name]) => {
    const usual = id === "length" ? way.model.lengths : data.stops[id];
    const stops = [...new Set([...usual, way[id]])].sort((one, other) => one - other);
    const row = element("label"), input = element("input"), output = element("output");
    Object.assign(input, { type: "range", min: 0, max: stops.length - 1, step: 1, disabled: of(id).disabled });
    const tell = () => {
      output.textContent = stops[input.value].toLocaleString("en-US");
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.value = stops.indexOf(way[id]);
    tell();
    input.addEventListener("input", () => {
      tell();
      of(id).value = stops[input.value];
      show();
    });
    input.addEventListener("change", keep);
    row.append(element("span", name), input, output);
    return row;
  });
  of("slides").replaceChildren(...rows);
}

// Another question, from a field or a button.
async function change() {
  const id = of("model").value, usual = FIELDS.length;
  if (id !== data.model.id && !(await choose(id))) return lack(id);
  if (id !== of("model").value) return;
  FIELDS.length = String(data.model.length);
  if (of("length").value === usual) of("length").value = FIELDS.length;
  show();
  slide();
  keep();
}

function lack(id) {
  of("verdict").className = "";
  of("verdict").textContent = "Not possible";
  of("numbers").textContent = `${modelFiles[id]} is not beside this page.`;
}

// --- the address ---------------------------------------------------------------------------------

// Not while a slider is dragged: browsers allow few changes of an address in a second.
function keep() {
  const said = Object.keys(FIELDS).map((id) => [id, of(id).value]).filter(([id, value]) => value !== FIELDS[id]);
  history.replaceState(null, "", `#${new URLSearchParams(said)}`);
}

async function begin() {
  const add = (place, value, text) => place.append(new Option(text, value));
  const models = Object.keys(modelFiles);
  models.forEach((id) => add(of("model"), id, id));
  await choose(models[0]);
  data.trainers.forEach((trainer) => add(of("trainer"), trainer.name, trainer.label));
  for (const memory of new Set(data.cards.map((card) => card.memory))) {
    const group = element("optgroup");
    group.label = `${memory} GB`;
    data.cards.filter((card) => card.memory === memory).forEach((card) => add(group, card.key, card.name));
    of("card").append(group);
  }
  Object.assign(FIELDS, { model: models[0], card: data.first, trainer: data.trainers[0].name });
  const given = { ...FIELDS, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  for (const [id, usual] of Object.entries(FIELDS)) {
    of(id).value = given[id];
    if (of(id).selectedIndex === -1 || (of(id).type === "number" && !of(id).value)) of(id).value = usual;
  }
  of("ask").addEventListener("input", change);
  of("ask").addEventListener("submit", (event) => event.preventDefault());
  await change();
}

begin();
