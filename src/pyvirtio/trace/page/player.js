
// Moves through the steps, by mouse and keyboard: which are shown, the list of them, and the picture above the slider.

// Which steps are stepped through.

let visible = steps.map((_, number) => number); // their numbers
let place = 0; // which of them is shown
const current = () => visible[place] ?? 0;

/** Return the place of a step among the visible ones, or of the last one before it. */
function placeOf(number) {
  let low = 0, high = visible.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (visible[middle] <= number) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

function filterSteps(chosen) {
  const number = current();
  visible = steps.map((_, at) => at).filter((at) => chosen === "all" || steps[at].queue === Number(chosen));
  byId("slider").max = Math.max(1, visible.length);
  drawOverview();
  sizeList();
  goTo(placeOf(number));
}

function fillFilter() {
  const filter = byId("filter");
  filter.append(make("option", { value: "all" }, "everything"));
  for (const queue of queues) {
    filter.append(make("option", { value: queue }, queue === NO_QUEUE ? "the socket" : `queue ${queue}`));
  }
  filter.addEventListener("change", () => filterSteps(filter.value));
}

// Moving. Whatever moves sets the place; what is shown follows with the next frame.

let isDue = false;

function goTo(where) {
  place = Math.min(Math.max(0, where), Math.max(0, visible.length - 1));
  byId("slider").value = place + 1;
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    show();
  });
}

/** Go to the beginning of the next request, or of one before. */
function goToRequest(direction) {
  const first = (number) => steps[number].what === "descriptors";
  for (let at = place + direction; at >= 0 && at < visible.length; at += direction) {
    if (first(visible[at])) return goTo(at);
  }
  return undefined;
}

function fromFragment() {
  const found = /^#step=(\d{1,9})$/.exec(location.hash);
  if (!found || !steps.length) return;
  const number = Math.min(Number(found[1]), steps.length) - 1;
  if (number !== current()) {
    if (!visible.includes(number)) {
      byId("filter").value = "all";
      filterSteps("all");
    }
    goTo(placeOf(number));
  }
}

let fragmentTimer = 0;

/** Put the step into the address, once it stays: browsers allow this only so often. */
function toFragment() {
  clearTimeout(fragmentTimer);
  fragmentTimer = setTimeout(() => {
    try {
      history.replaceState(null, "", `#step=${current() + 1}`);
    } catch {
      // Somewhere an address may not change; the page goes on without.
    }
  }, 250);
}

let playTimer = 0;

function play(goes) {
  clearInterval(playTimer);
  playTimer = 0;
  if (goes) {
    if (place === visible.length - 1) goTo(0);
    playTimer = setInterval(() => (place < visible.length - 1 ? goTo(place + 1) : play(false)), Number(byId("speed").value));
  }
  byId("play").textContent = goes ? "❚❚ Pause" : "▶ Play";
  byId("said").setAttribute("aria-live", goes ? "off" : "polite"); // nobody can listen to all of it
}

// The list of all steps: only those in sight are elements.

const sizeList = () => { byId("list-rows").style.height = `${visible.length * ROW}px`; };

/** Show the list around the current step. */
function showList() {
  const list = byId("list");
  const top = place * ROW;
  if (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight) {
    list.scrollTop = Math.max(0, top - list.clientHeight / 3);
  }
  fillList();
}

function fillList() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(visible.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const rows = [];
  for (let at = first; at < last; at += 1) rows.push(listRow(at));
  if (place < first || place >= last) rows.push(listRow(place));
  byId("list-rows").replaceChildren(...rows);
  list.setAttribute("aria-activedescendant", `step-${current() + 1}`);
}

function listRow(at) {
  const number = visible[at];
  const step = steps[number];
  const queue = step.queue === NO_QUEUE || queues.length <= 2 ? "" : ` q${step.queue}`;
  const row = make("div", {
    id: `step-${number + 1}`, role: "option", class: `step ${colourOf(step)}`, "aria-selected": String(at === place),
    "aria-posinset": at + 1, "aria-setsize": visible.length,
  }, make("span", { class: "at" }, inMicroseconds(step.at)), ` ${step.side}${queue} ${texts[step.text][0]}`);
  row.style.top = `${at * ROW}px`;
  row.dataset.at = at;
  return row;
}

// The picture above the slider: who did something where in the recording.

const LANES = ["socket", "driver", "device"];

function drawOverview() {
  const canvas = byId("overview");
  const scale = devicePixelRatio || 1;
  const width = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale)));
  const height = (canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale)));
  const context = canvas.getContext("2d");
  const lane = height / LANES.length;
  const mark = Math.max(2 * scale, Math.min(12 * scale, (0.7 * width) / Math.max(1, visible.length)));
  const colours = Object.fromEntries(LANES.map((name) => [name, colourFor(name)]));
  const drawn = new Set();
  visible.forEach((number, at) => {
    const name = colourOf(steps[number]);
    const x = Math.round(visible.length > 1 ? (at / (visible.length - 1)) * (width - 1) : 0);
    const row = LANES.indexOf(name);
    if (row < 0 || drawn.has(x * 4 + row)) return;
    drawn.add(x * 4 + row);
    context.fillStyle = colours[name];
    context.fillRect(x - mark / 2, row * lane + lane * 0.15, mark, lane * 0.7);
  });
}

/** Return a colour of the style sheet as the canvas understands it. */
function colourFor(name) {
  const probe = make("span", { class: name });
  probe.style.color = "var(--side)";
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function scrub(event) {
  const box = byId("overview").getBoundingClientRect();
  goTo(Math.round(((event.clientX - box.left) / box.width) * (visible.length - 1)));
}

// What the reader does.

const KEYS = {
  ArrowLeft: () => goTo(place - 1),
  ArrowRight: () => goTo(place + 1),
  PageUp: () => goTo(place - 10),
  PageDown: () => goTo(place + 10),
  Home: () => goTo(0),
  End: () => goTo(visible.length - 1),
  " ": () => play(!playTimer),
  "Shift+ArrowLeft": () => goToRequest(-1),
  "Shift+ArrowRight": () => goToRequest(1),
};
const LIST_KEYS = { ArrowUp: KEYS.ArrowLeft, ArrowDown: KEYS.ArrowRight };
const OWN_SPACE = "button, summary"; // what the space bar does something to

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select")) return;
  if (event.key === " " && event.target.closest(OWN_SPACE)) return;
  const inList = event.target.id === "list";
  const name = `${event.shiftKey ? "Shift+" : ""}${event.key}`;
  const act = KEYS[name] ?? (inList ? LIST_KEYS[name] : undefined);
  if (!act) return;
  event.preventDefault();
  act();
}

const BUTTONS = {
  first: KEYS.Home,
  "back-request": KEYS["Shift+ArrowLeft"],
  back: KEYS.ArrowLeft,
  play: KEYS[" "],
  next: KEYS.ArrowRight,
  "next-request": KEYS["Shift+ArrowRight"],
  last: KEYS.End,
};

function listen() {
  for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
  byId("slider").addEventListener("input", (event) => goTo(Number(event.target.value) - 1));
  byId("speed").addEventListener("change", () => playTimer && play(true));
  byId("list").addEventListener("scroll", fillList);
  byId("list").addEventListener("click", (event) => {
    const row = event.target.closest(".step");
    if (row) goTo(Number(row.dataset.at));
  });
  const track = byId("overview").parentElement;
  track.addEventListener("pointerdown", (event) => {
    track.setPointerCapture(event.pointerId);
    scrub(event);
  });
  track.addEventListener("pointermove", (event) => event.buttons && scrub(event));
  addEventListener("keydown", pressed);
  addEventListener("hashchange", fromFragment);
  addEventListener("resize", () => {
    drawOverview();
    fillList();
  });
}

function begin() {
  const length = steps.length ? steps.at(-1).at : 0;
  const left = recording.total - steps.length;
  const notes = [
    plural(steps.length, "step"), plural(recording.requests.length, "request"), duration(length),
    left > 0 ? `${count(left)} more are not on this page` : "", recording.is_cut ? "the last line is cut" : "",
  ];
  byId("facts").textContent = notes.filter(Boolean).join(" · ");
  fillFilter();
  listen();
  switchTheme(drawOverview);
  filterSteps("all");
  fromFragment();
}

begin();
