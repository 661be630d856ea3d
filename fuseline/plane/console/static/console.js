// @ts-check
/**
 * The console's first page: the chain of trust, the fleet and its events, live.
 *
 * State comes from two snapshots; server-sent events only say that something changed, and the page then
 * fetches the snapshots again, so a missed event costs nothing. Everything from the plane enters the
 * document as text, never as markup: names and reasons come from devices, which this page does not trust.
 */

/** @typedef {"ok"|"warn"|"bad"|"none"|"busy"} Tone */
/** @typedef {{id: string, health: string, summary: string, facts: [string, string][]}} Layer */
/**
 * @typedef {{name: string, domain: string, development: boolean, devices: number,
 *   stages: Record<string, number>}} Fleet
 */
/** @typedef {{fleet: Fleet, layers: Layer[]}} Overview */
/** @typedef {{stage: string, at: number, evidence: Record<string, unknown>}} StageRecord */
/** @typedef {{status: string, at: number, reason: string|null}} Appraisal */
/** @typedef {{id: number, release: string, state: string, why: string|null}} Action */
/**
 * @typedef {{name: string, hardware: string, stage: string, release: string|null, measured: string|null,
 *   appraisal: Appraisal|null, action: Action|null, last_seen: number|null, revoked: string|null,
 *   stages: StageRecord[]}} Device `measured` is hex, times are seconds since the epoch, `revoked` is the reason
 */
/** @typedef {{kind: string, device?: string|null, at: number, data?: Record<string, unknown>|null}} FleetEvent */
/**
 * @typedef {{body: HTMLTableSectionElement, summary: HTMLTableRowElement, detail: HTMLTableRowElement,
 *   toggle: HTMLButtonElement, device: Device, json: string, text: string}} Row
 */

const REFRESH_DELAY_MS = 150;
// A busy rollout never pauses for 150 ms; the page must still move while it lasts.
const REFRESH_LATEST_MS = 1000;
const RETRY_MS = 3000;
const CLOCK_TICK_MS = 5000;
const FEED_LENGTH = 12;
const ROWS_AT_ONCE = 200;
const DIGEST_SHORT = 12;

/** @type {Record<string, [Tone, string]>} */
const HEALTH = { ok: ["ok", "OK"], warn: ["warn", "Warning"], bad: ["bad", "Bad"], none: ["none", "No data"] };

/** @type {Record<string, Tone>} stages of a device, RFC 9334 appraisals and states of an action */
const TONES = {
  ...{ attested: "ok", updating: "busy", unproven: "warn", revoked: "bad" },
  ...{ affirming: "ok", warning: "warn", contraindicated: "bad" },
  ...{ offered: "busy", progress: "busy", failed: "bad", reverted: "bad" },
};

/** @type {Record<string, string>} states of an action whose name alone would mislead a reader */
const ACTION_WORDS = { progress: "in progress", attested: "proven by attestation" };

/** @type {Record<string, [Tone, string]>} */
const EVENTS = {
  "device.manufactured": ["ok", "manufactured"],
  "device.enrolled": ["ok", "enrolled"],
  "device.renewed": ["ok", "certificate renewed"],
  "device.revoked": ["bad", "revoked"],
  "attestation.affirmed": ["ok", "attestation affirmed"],
  "attestation.contraindicated": ["bad", "attestation contraindicated"],
  "attestation.refused": ["bad", "attestation evidence refused"],
  "release.published": ["busy", "release published"],
  "rollout.started": ["busy", "rollout started"],
  "action.offered": ["busy", "update offered"],
  "action.progress": ["busy", "update in progress"],
  "action.unproven": ["warn", "update unproven"],
  "action.attested": ["ok", "update proven by attestation"],
  "action.failed": ["bad", "update failed"],
  "action.reverted": ["bad", "update reverted"],
};

const COLUMNS = ["Device", "Hardware", "Stage", "Running", "Measured", "Appraisal", "Update", "Last seen"];

// --- building the document ----------------------------------------------------------------------

/** Find one element that index.html promises. @param {string} selector @param {ParentNode} [within] */
function need(selector, within = document) {
  const found = within.querySelector(selector);
  if (!(found instanceof HTMLElement)) throw new Error(`index.html has no ${selector}`);
  return found;
}

/**
 * Make an element with attributes and children; strings become text nodes.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, string>} [attributes] @param {...(Node|string)} children
 */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {string} name one of the symbols in index.html */
function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A state in a colour, a shape and a word. @param {Tone} tone @param {string} words */
function lamp(tone, words) {
  return make("span", { class: "lamp", "data-health": tone }, icon(tone), make("span", {}, words));
}

/** @param {unknown} value */
function plain(value) {
  if (value === null || value === undefined) return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** @param {Iterable<[string, unknown]>} facts @returns {HTMLDivElement[]} rows for a `dl.facts` */
function factRows(facts) {
  return Array.from(facts, ([name, value]) =>
    make("div", {}, make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, plain(value))),
  );
}

// --- time ---------------------------------------------------------------------------------------

/** @param {number} at seconds since the epoch @returns {string} UTC, to the second */
function utc(at) {
  return `${new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** @param {number} at seconds since the epoch */
function ago(at) {
  const seconds = Math.floor(Date.now() / 1000 - at);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** @param {number} at seconds since the epoch @returns {HTMLTimeElement} kept true by `tickClocks` */
function clock(at) {
  const exact = new Date(at * 1000).toISOString();
  return make("time", { datetime: exact, title: utc(at), "data-at": String(at) }, ago(at));
}

/** Bring every relative time up to date. */
function tickClocks() {
  for (const time of document.querySelectorAll("time[data-at]")) {
    time.textContent = ago(Number(time.getAttribute("data-at")));
  }
}

// --- the plane ----------------------------------------------------------------------------------

/** The plane refused, failed or did not answer (status 0). */
class PlaneError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** @param {Response} response @returns {Promise<PlaneError>} with the plane's own code and hint if it sent them */
async function planeError(response) {
  const coded = (response.headers.get("content-type") ?? "").includes("json");
  const body = coded ? await response.json() : {};
  const what = body.code ? `${body.code}: ${body.detail}` : `The plane answered ${response.status}.`;
  return new PlaneError(response.status, body.hint ? `${what.replace(/\.$/, "")}. ${body.hint}` : what);
}

/** @param {string} path @returns {Promise<any>} the JSON body; a signed-out operator is sent to sign in */
async function getJson(path) {
  try {
    const response = await fetch(path, { headers: { accept: "application/json" }, cache: "no-store" });
    if (response.status === 401) location.assign("/console/login");
    if (!response.ok) throw await planeError(response);
    return await response.json();
  } catch (error) {
    if (error instanceof PlaneError) throw error;
    throw new PlaneError(0, "The plane cannot be reached, or what answers is not the plane.");
  }
}

// --- the stack and its panel --------------------------------------------------------------------

const tower = need("[data-tower]");
const panel = need('[data-testid="layer-panel"]');
/** @type {Map<string, HTMLElement>} by layer id */
const layers = new Map();
for (const button of tower.querySelectorAll("button")) layers.set(button.dataset.layer ?? "", button);
/** @type {string|null} */
let pinned = null;

/** Show one layer's role and state in the panel. @param {string} id */
function showLayer(id) {
  panel.dataset.shown = id;
  for (const role of panel.querySelectorAll("[data-role]")) {
    role.toggleAttribute("hidden", role.getAttribute("data-role") !== id);
  }
  for (const [name, button] of layers) button.classList.toggle("shown", name === id);
}

/** Keep a layer in the panel while the pointer moves on; `null` lets it follow again. @param {string|null} id */
function pin(id) {
  pinned = id;
  for (const [name, button] of layers) button.setAttribute("aria-pressed", String(name === id));
  if (id) showLayer(id);
}

/** Let pointer and keyboard choose the layer. */
function listenToLayers() {
  for (const [id, button] of layers) {
    const look = () => {
      panel.dataset.chosen = id;
      showLayer(id);
    };
    button.addEventListener("pointerenter", look);
    button.addEventListener("focus", look);
    button.addEventListener("click", () => pin(pinned === id ? null : id));
  }
  tower.addEventListener("pointerleave", () => pinned && showLayer(pinned));
  tower.addEventListener("keydown", (event) => event.key === "Escape" && pin(null));
}

/** @param {HTMLElement} target a `[data-lamp]` of index.html @param {string} health */
function setLamp(target, health) {
  const [tone, words] = HEALTH[health] ?? HEALTH.none;
  if (target.dataset.health === tone) return;
  target.dataset.health = tone;
  target.replaceChildren(icon(tone), make("span", { "data-lamp-text": "" }, words));
}

/** @param {Layer} layer */
function renderLayer(layer) {
  const button = layers.get(layer.id);
  const role = panel.querySelector(`[data-role="${CSS.escape(layer.id)}"]`);
  if (!button || !role) return;
  button.dataset.health = layer.health;
  setLamp(need("[data-lamp]", button), layer.health);
  setLamp(need("[data-lamp]", role), layer.health);
  need("[data-summary]", role).textContent = layer.summary;
  need("[data-facts]", role).replaceChildren(...factRows(layer.facts));
  need("[data-live]", role).hidden = layer.facts.length === 0;
}

/** Until the operator points at a layer, show the one that needs attention, or else the root of trust. */
function showWorst() {
  if (panel.dataset.chosen) return;
  const healths = [...layers].map(([id, button]) => [button.dataset.health, id]);
  const worst = healths.find(([health]) => health === "bad") ?? healths.find(([health]) => health === "warn");
  showLayer(worst?.[1] ?? "silicon");
}

/** @param {Overview} overview */
function renderOverview({ fleet, layers: states }) {
  Object.assign(need("[data-fleet-name]"), { textContent: fleet.name, title: fleet.domain });
  document.title = `${fleet.name} · Fuseline console`;
  need('[data-testid="dev-banner"]').hidden = !fleet.development;
  states.forEach(renderLayer);
  showWorst();
  for (const button of countButtons) {
    const count = fleet.stages[button.dataset.stage ?? ""] ?? 0;
    need("strong", button).textContent = String(count);
    button.classList.toggle("zero", count === 0);
  }
}

// --- the fleet ----------------------------------------------------------------------------------

const table = need("table.devices");
const filter = /** @type {HTMLInputElement} */ (need("[data-filter]"));
/** @type {NodeListOf<HTMLElement>} */
const notices = document.querySelectorAll('[data-testid="fleet-notice"]');
const countButtons = need('[data-testid="stage-counts"]').querySelectorAll("button");
/** @type {Map<string, Row>} */
const rows = new Map();
/** @type {string|null} */
let stageFilter = null;
let rowLimit = ROWS_AT_ONCE;
let loaded = false;
let rowsMade = 0;

/** The device's own label first, its domain quietly after it. @param {string} name */
function hostName(name) {
  const dot = name.indexOf(".");
  const cut = dot < 0 ? name.length : dot;
  return make("span", { class: "host" }, make("strong", {}, name.slice(0, cut)), make("span", {}, name.slice(cut)));
}

/** @param {string|null} digest */
function shortDigest(digest) {
  if (!digest) return make("span", { class: "muted" }, "not measured");
  return make("code", { title: digest }, digest.slice(0, DIGEST_SHORT), make("span", { class: "muted" }, "…"));
}

/** @param {Appraisal|null} appraisal */
function appraisalCell(appraisal) {
  if (!appraisal) return [lamp("none", "none")];
  const state = lamp(TONES[appraisal.status] ?? "none", appraisal.status);
  const reason = appraisal.reason ? [make("span", { class: "why" }, appraisal.reason)] : [];
  return [state, clock(appraisal.at), ...reason];
}

/** @param {Action|null} action */
function actionCell(action) {
  if (!action) return [make("span", { class: "muted" }, "none")];
  const state = lamp(TONES[action.state] ?? "busy", ACTION_WORDS[action.state] ?? action.state.replaceAll("_", " "));
  const head = make("span", { class: "update" }, state, make("code", {}, action.release));
  return action.why ? [head, make("span", { class: "why" }, action.why)] : [head];
}

/** @param {Device} device */
function stageCell(device) {
  const state = lamp(TONES[device.stage] ?? "none", device.stage);
  return device.revoked ? [state, make("span", { class: "why" }, device.revoked)] : [state];
}

/** @param {Device} device @returns {Node[][]} what stands in each column after the first */
function cells(device) {
  return [
    [make("span", { class: "hardware" }, device.hardware)],
    stageCell(device),
    [device.release ? make("code", {}, device.release) : make("span", { class: "muted" }, "unknown")],
    [shortDigest(device.measured)],
    appraisalCell(device.appraisal),
    actionCell(device.action),
    [device.last_seen ? clock(device.last_seen) : make("span", { class: "muted" }, "never")],
  ];
}

/** @param {StageRecord} record */
function stageItem(record) {
  const head = make("p", { class: "stage-head" }, make("strong", {}, record.stage), clock(record.at));
  const evidence = make("dl", { class: "facts evidence" }, ...factRows(Object.entries(record.evidence)));
  return make("li", { "data-stage": record.stage }, head, evidence);
}

/** @param {Device} device */
function historyOf(device) {
  const list = make("ol", { class: "stages" }, ...device.stages.map(stageItem));
  const measured = factRows([["measured digest", device.measured ?? "not measured"]]);
  return make("div", { class: "history" }, make("dl", { class: "facts" }, ...measured), list);
}

/** @param {Device} device @returns {string} what the filter looks through */
function searchText(device) {
  const words = [device.name, device.hardware, device.stage, device.release, device.measured, device.revoked];
  words.push(device.appraisal?.status ?? "", device.action?.state ?? "", device.action?.release ?? "");
  return words.join(" ").toLowerCase();
}

/** @param {Row} row @param {boolean} open */
function expand(row, open) {
  row.toggle.setAttribute("aria-expanded", String(open));
  row.detail.hidden = !open;
  // Built when it is opened: a fleet of hundreds has thousands of evidence lines.
  need("td", row.detail).replaceChildren(...(open ? [historyOf(row.device)] : []));
}

/** @param {Device} device @returns {Row} an empty row group that `updateRow` fills */
function makeRow(device) {
  rowsMade += 1;
  const id = `history-${rowsMade}`;
  const toggle = make("button", { type: "button", class: "toggle", "aria-expanded": "false", "aria-controls": id });
  toggle.append(icon("chevron"), hostName(device.name));
  const header = make("th", { role: "rowheader", scope: "row" }, toggle);
  const summary = make("tr", { role: "row", class: "summary-row" }, header);
  const cell = make("td", { role: "cell", colspan: String(COLUMNS.length) });
  const detail = make("tr", { role: "row", class: "detail-row", id, hidden: "" }, cell);
  const body = make("tbody", { role: "rowgroup", "data-device": device.name }, summary, detail);
  const row = { body, summary, detail, toggle, device, json: "", text: "" };
  toggle.addEventListener("click", () => expand(row, row.detail.hidden));
  summary.addEventListener("animationend", () => summary.classList.remove("changed"));
  return row;
}

/** @param {Row} row @param {Device} device */
function updateRow(row, device) {
  const json = JSON.stringify(device);
  if (json === row.json) return;
  if (row.json) row.summary.classList.add("changed");
  Object.assign(row, { device, json, text: searchText(device) });
  row.body.dataset.stage = device.stage;
  const columns = cells(device).map((content, index) =>
    make("td", { role: "cell", "data-column": COLUMNS[index + 1] }, make("div", {}, ...content)),
  );
  // The first cell stays: it holds the button, and with it the keyboard's focus.
  row.summary.replaceChildren(...[...row.summary.children].slice(0, 1), ...columns);
  expand(row, !row.detail.hidden);
}

/** @param {Device[]} devices */
function renderDevices(devices) {
  loaded = true;
  const names = new Set(devices.map((device) => device.name));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
  for (const device of devices) {
    const row = rows.get(device.name) ?? makeRow(device);
    rows.set(device.name, row);
    updateRow(row, device);
  }
  renderRows();
}

/** @param {HTMLElement[]} bodies the row groups to show, in order */
function placeRows(bodies) {
  const shown = [...table.querySelectorAll(":scope > tbody")];
  if (shown.length === bodies.length && shown.every((body, index) => body === bodies[index])) return;
  const focused = document.activeElement;
  const wanted = new Set(/** @type {Element[]} */ (bodies));
  for (const body of shown) if (!wanted.has(body)) body.remove();
  table.append(...bodies);
  if (focused instanceof HTMLElement && focused.isConnected) focused.focus({ preventScroll: true });
}

/** Show the rows that the filter and the stage let through. */
function renderRows() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = [...rows.values()].filter(
    (row) => (!stageFilter || row.device.stage === stageFilter) && words.every((word) => row.text.includes(word)),
  );
  placeRows(matches.slice(0, rowLimit).map((row) => row.body));
  for (const button of countButtons) button.setAttribute("aria-pressed", String(button.dataset.stage === stageFilter));
  renderShownCount(Math.min(matches.length, rowLimit), matches.length);
  if (loaded) showNotice(rows.size === 0 ? "empty" : matches.length === 0 ? "filtered" : "none");
}

/** Start over at the first row, after another choice of rows. */
function renderFromTop() {
  rowLimit = ROWS_AT_ONCE;
  renderRows();
}

/** @param {number} shown @param {number} matching */
function renderShownCount(shown, matching) {
  const total = `${rows.size} ${rows.size === 1 ? "device" : "devices"}`;
  const line = shown === rows.size ? total : `${shown} of ${total}`;
  const count = need("[data-shown-count]");
  // Writing the same text again would make a screen reader say it again.
  if (loaded && count.textContent !== line) count.textContent = line;
  need("[data-more]").hidden = shown >= matching;
}

/** @param {"error"|"empty"|"filtered"|"none"} kind which of index.html's notices stands in for the rows */
function showNotice(kind) {
  for (const notice of notices) notice.hidden = notice.dataset.kind !== kind;
  table.hidden = kind !== "none";
}

/** Bring one device into view with its history open. @param {string} name */
function openDevice(name) {
  const row = rows.get(name);
  if (!row) return;
  stageFilter = null;
  filter.value = name;
  renderRows();
  expand(row, true);
  row.toggle.focus({ preventScroll: true });
  row.body.scrollIntoView({ block: "center" });
}

// --- events -------------------------------------------------------------------------------------

const feed = need('[data-testid="feed"]');

/** The one thing worth reading beside the kind. @param {Record<string, unknown>|null|undefined} data */
function eventNote(data) {
  for (const key of ["why", "reason", "code", "release", "version", "state"]) {
    const value = data?.[key];
    if (typeof value === "string" && value) return value;
  }
  return "";
}

/** @param {string} name */
function deviceLink(name) {
  const link = make("button", { type: "button", class: "link", title: name }, name.split(".")[0]);
  link.addEventListener("click", () => openDevice(name));
  return link;
}

/** @param {FleetEvent} event */
function feedItem(event) {
  const [tone, words] = EVENTS[event.kind] ?? ["none", event.kind];
  const subject = event.device ? deviceLink(event.device) : make("strong", {}, "fleet");
  const head = make("p", { class: "feed-head" }, subject, " ", words);
  const note = eventNote(event.data);
  const body = make("div", {}, head, ...(note ? [make("p", { class: "why" }, note)] : []));
  return make("li", { "data-kind": event.kind, "data-health": tone }, icon(tone), body, clock(event.at));
}

/** @param {MessageEvent<string>} message */
function takeEvent(message) {
  // After a reconnect the plane may repeat what the page already has.
  if (feed.querySelector(`[data-event="${CSS.escape(message.lastEventId)}"]`)) return;
  const item = feedItem(JSON.parse(message.data));
  item.dataset.event = message.lastEventId;
  feed.prepend(item);
  while (feed.children.length > FEED_LENGTH) feed.lastElementChild?.remove();
  need("[data-feed-empty]").hidden = true;
  requestRefresh();
}

// --- staying live -------------------------------------------------------------------------------

const connection = need('[data-testid="connection"]');
const refresh = { timer: 0, askedAt: 0, running: false, again: false, freshAt: 0, failure: "", status: 0 };

/** Say what is wrong. A lost connection explains a plane out of reach; two alarms for one cause help nobody. */
function renderBanners() {
  const lost = connection.dataset.state === "lost";
  need('[data-testid="lost-banner"]').hidden = !lost;
  need("[data-stale]").textContent = refresh.freshAt ? `What you see is from ${utc(refresh.freshAt)}.` : "";
  need('[data-testid="error-banner"]').hidden = !refresh.failure || (lost && refresh.status === 0);
  for (const place of document.querySelectorAll("[data-error-text]")) place.textContent = refresh.failure;
}

/** @param {"live"|"lost"} state */
function setConnection(state) {
  connection.dataset.state = state;
  need("[data-connection-text]").textContent = state === "live" ? "Live" : "Reconnecting";
  renderBanners();
}

/** Fetch the snapshots soon, once for a burst of reasons. */
function requestRefresh() {
  const now = Date.now();
  refresh.askedAt ||= now;
  clearTimeout(refresh.timer);
  const delay = Math.min(REFRESH_DELAY_MS, refresh.askedAt + REFRESH_LATEST_MS - now);
  refresh.timer = setTimeout(runRefresh, Math.max(0, delay));
}

/** Fetch and show the snapshots; one at a time, so that an old answer never overwrites a new one. */
async function runRefresh() {
  if (refresh.running) {
    refresh.again = true;
    return;
  }
  Object.assign(refresh, { running: true, again: false, askedAt: 0 });
  try {
    const [overview, devices] = await Promise.all([getJson("/api/v1/overview"), getJson("/api/v1/devices")]);
    Object.assign(refresh, { freshAt: Date.now() / 1000, failure: "" });
    renderOverview(overview);
    renderDevices(devices.devices);
  } catch (error) {
    if (!(error instanceof PlaneError)) throw error;
    if (error.status !== 401) takeFailure(error);
  } finally {
    refresh.running = false;
    renderBanners();
    if (refresh.again) requestRefresh();
  }
}

/** @param {PlaneError} error */
function takeFailure(error) {
  Object.assign(refresh, { failure: error.message, status: error.status });
  if (!loaded) showNotice("error");
  clearTimeout(refresh.timer);
  refresh.timer = setTimeout(runRefresh, RETRY_MS);
}

/** Follow the plane's events, and start over when the browser gives up. */
function follow() {
  const source = new EventSource("/api/v1/events");
  source.addEventListener("change", takeEvent);
  source.addEventListener("open", () => {
    setConnection("live");
    requestRefresh();
  });
  source.addEventListener("error", () => {
    setConnection("lost");
    // EventSource retries a broken connection, but not an answer other than 200.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, RETRY_MS);
    requestRefresh();
  });
}

showLayer("silicon");
listenToLayers();
for (const button of countButtons) {
  button.addEventListener("click", () => {
    stageFilter = stageFilter === button.dataset.stage ? null : (button.dataset.stage ?? null);
    renderFromTop();
  });
}
filter.addEventListener("input", renderFromTop);
need("[data-more-button]").addEventListener("click", () => {
  rowLimit += ROWS_AT_ONCE;
  renderRows();
});
need("[data-retry]").addEventListener("click", requestRefresh);
setInterval(tickClocks, CLOCK_TICK_MS);
runRefresh();
follow();
