// Reads the stream, and says in words what the charts show.
"use strict";

(() => {
  const shown = JSON.parse(document.getElementById("shown").textContent);
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const NAMES = { lab: "Lab", stock: "Django’s engine", resilient: "django-resilient-pg" };
  const SPEAK = 4000; // milliseconds between two announcements of the log
  const LINES = 200;

  const panels = Object.fromEntries(all(".side").map((box) => [box.dataset.side, box]));
  const buttons = all("button[data-fault]");
  const log = find("#log");
  const lines = new Map();
  let unspoken = [];
  let recent = {}; // by side: [time, failed] of the last seconds

  for (const [name, box] of Object.entries(panels)) Charts.add(name, find(".chart", box));
  Charts.build();

  const write = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const some = (number, one, many) => `${number} ${number === 1 ? one : many}`;

  // -- the applications ---------------------------------------------------------------------

  function health(name, side, now) {
    const seen = (recent[name] ??= []);
    seen.push([now, side.counters.failed]);
    while (seen[0][0] < now - 2) seen.shift();
    if (side.counters.failed > seen[0][1]) return ["failing", "Failing"];
    if (side.waiting) return ["waiting", `${some(side.waiting, "request waits", "requests wait")}`];
    return ["ok", "Answering"];
  }

  function showSide(name, side, now) {
    const box = panels[name];
    const [state, word] = health(name, side, now);
    const mark = find(".health", box);
    mark.dataset.health = state;
    write(find(".word", mark), word);
    for (const field of all("[data-counter]", box)) {
      const counter = field.dataset.counter;
      if (counter === "healed" && name === "stock") continue; // Django's engine heals nothing
      write(field, String(side.counters[counter]));
      field.parentElement.classList.toggle("bad", counter !== "healed" && side.counters[counter] > 0);
    }
    const { answered, slow, failed } = side.counters;
    const title = find("h2", box).textContent;
    find(".chart", box).setAttribute(
      "aria-label",
      `${title}: requests each second. ${answered} answered, ${slow} slow, ${failed} failed so far. Now: ${word}.`,
    );
  }

  // -- what was broken, and what came of it --------------------------------------------------

  const sum = (now, before, names) => names.reduce((all, name) => all + now[name] - before[name], 0);

  function outcome(name, side, mark) {
    const before = mark.before[name];
    const parts = [some(sum(side.counters, before, ["failed"]), "request failed", "requests failed")];
    const slow = sum(side.counters, before, ["slow"]);
    const doubled = sum(side.counters, before, ["doubled"]);
    const lost = sum(side.counters, before, ["lost"]);
    const healed = sum(side.counters, before, ["healed"]);
    if (side.waiting) parts.push(`${side.waiting} waiting`);
    if (slow) parts.push(`${slow} slow`);
    if (doubled) parts.push(some(doubled, "order doubled", "orders doubled"));
    if (lost) parts.push(some(lost, "order lost", "orders lost"));
    if (healed) parts.push(some(healed, "connection healed", "connections healed"));
    return `${NAMES[name]}: ${parts.join(", ")}.`;
  }

  function showOutcome(news) {
    const mark = news.marks.at(-1);
    if (!mark) return;
    write(find("#sentence"), shown.faults[mark.fault].sentence);
    const since = find("#since");
    since.hidden = false;
    write(find("#since-when"), `Since ${Charts.clock(mark.began)}`);
    for (const name of Object.keys(panels)) {
      write(find(`#since-${name}`), outcome(name, news.sides[name], mark));
    }
  }

  // -- buttons -------------------------------------------------------------------------------

  function describe(button, status, now) {
    const { fault } = button.dataset;
    const active = status.fault === fault;
    const lacks = fault === "failover" && !status.standby;
    button.classList.toggle("active", active);
    button.setAttribute("aria-disabled", String(status.fault !== null || lacks));
    const about = find(".about", button);
    if (!active) {
      write(about, lacks ? "There is no standby" : about.dataset.about);
    } else if (status.state === "clearing up") {
      write(about, "Over, clearing up");
    } else {
      const left = Math.ceil(status.until - now);
      write(about, left > 0 ? `Under way, ${left} s left` : "Under way");
    }
  }

  async function press(button) {
    if (button.getAttribute("aria-disabled") === "true") return;
    const token = find("[name=csrfmiddlewaretoken]").value;
    const headers = { "X-CSRFToken": token };
    const response = await fetch(button.formAction, { method: "POST", headers }).catch(() => null);
    const refused = response === null ? "The lab does not answer." : `The lab refused: ${response.status}.`;
    write(find("#link"), response?.ok || response?.status === 409 ? "" : refused);
  }

  find(".faults").addEventListener("submit", (event) => {
    event.preventDefault();
    press(event.submitter);
  });
  find("#pause").addEventListener("click", ({ currentTarget: button }) => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    Charts.pause(on);
  });

  // -- the log -------------------------------------------------------------------------------

  function cell(name, text) {
    const node = document.createElement(name === "time" ? "time" : "span");
    node.className = name;
    node.textContent = text;
    return node;
  }

  function line(entry) {
    const node = document.createElement("li");
    node.dataset.source = entry.source;
    node.dataset.at = entry.at;
    node.append(cell("time", Charts.clock(entry.at)), cell("who", NAMES[entry.source]));
    node.append(cell("times", ""), cell("text", entry.text));
    return node;
  }

  // The newest first. The engine tells of a loss when its outcome is known, so later than others.
  function insert(node) {
    const older = [...log.children].find((other) => Number(other.dataset.at) <= node.dataset.at);
    log.insertBefore(node, older ?? null);
  }

  function showLog(entries) {
    if (entries.length) find(".empty", log)?.remove();
    for (const entry of entries) {
      if (!lines.has(entry.key)) {
        lines.set(entry.key, line(entry));
        insert(lines.get(entry.key));
        unspoken.push(`${NAMES[entry.source]}: ${entry.text}`);
      }
      write(find(".times", lines.get(entry.key)), entry.count > 1 ? `${entry.count} ×` : "");
    }
    for (const key of [...lines.keys()].slice(0, -LINES)) {
      lines.get(key).remove();
      lines.delete(key);
    }
  }

  // A screen reader hears the newest lines now and then, and how many others there were.
  function speak() {
    if (!unspoken.length) return;
    const rest = unspoken.length - 2;
    const more = rest > 0 ? ` And ${some(rest, "more line", "more lines")} in the log.` : "";
    write(find("#spoken"), unspoken.slice(0, 2).join(" ") + more);
    unspoken = [];
  }
  // Not setInterval(), which makes up for a late call: two would come one upon the other.
  const goOnSpeaking = () => {
    speak();
    setTimeout(goOnSpeaking, SPEAK);
  };
  goOnSpeaking();

  // -- the stream ----------------------------------------------------------------------------

  const stream = new EventSource("stream/");
  let began = false;
  stream.addEventListener("open", () => {
    // All that is known comes again.
    began = false;
    lines.clear();
    log.replaceChildren(cell("empty", "Nothing has happened yet."));
    write(find("#link"), "");
  });
  stream.addEventListener("error", () => {
    write(find("#link"), "The connection to the lab is lost. Is it still running?");
  });
  stream.addEventListener("message", (event) => {
    const news = JSON.parse(event.data);
    Charts.show(news);
    for (const [name, side] of Object.entries(news.sides)) showSide(name, side, news.now);
    showOutcome(news);
    for (const button of buttons) describe(button, news.status, news.now);
    showLog(news.log);
    if (!began) unspoken = [];
    began = true;
  });
})();
