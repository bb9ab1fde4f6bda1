// Puts what the server sends in its place, as text and nothing else.
"use strict";

(() => {
  const titles = ["worker", "version", "up", "CPU", "memory", "state", "partitions"];
  const cells = new Map();
  for (const element of document.querySelectorAll("[data-cell]")) {
    cells.set(element.dataset.cell, element);
  }
  const stateful = document.querySelectorAll("[data-state-of]");
  const labelled = document.querySelectorAll("[data-label]");
  const edges = document.querySelectorAll(".edge");
  const link = document.getElementById("link");
  const trouble = document.getElementById("trouble");
  const alerts = document.getElementById("alerts");

  const write = (element, text) => {
    // An unchanged text is not touched, so that a screen reader and a selection are left alone.
    if (element.textContent !== text) element.textContent = text;
  };
  const say = (state, text) => {
    link.dataset.link = state;
    write(link, text);
  };
  const complain = (text) => {
    write(trouble, text);
    trouble.hidden = !text;
  };

  const showWorkers = (workers) => {
    const body = document.getElementById("workers");
    while (body.rows.length > workers.length) body.deleteRow(-1);
    workers.forEach((texts, row) => {
      const line = body.rows[row] || body.insertRow(-1);
      texts.forEach((text, column) => {
        const cell = line.cells[column] || line.insertCell(-1);
        cell.dataset.title = titles[column];
        write(cell, text);
      });
    });
  };

  const showFrame = (frame) => {
    for (const [name, text] of Object.entries(frame.cells)) {
      const element = cells.get(name);
      if (element) write(element, text);
    }
    for (const element of stateful) {
      const state = frame.states[element.dataset.stateOf];
      if (state && element.dataset.state !== state) element.dataset.state = state;
    }
    for (const element of labelled) {
      const label = frame.cells[element.dataset.label];
      if (label && element.getAttribute("aria-label") !== label) {
        element.setAttribute("aria-label", label);
      }
    }
    const flowing = new Set(frame.flowing);
    for (const edge of edges) edge.classList.toggle("flowing", flowing.has(edge.id));
    showWorkers(frame.workers);
    write(document.getElementById("at"), frame.at);
    write(alerts, frame.alerts.join("; "));
    complain("");
    say("live", "live");
  };

  let source = null;
  const follow = () => {
    source = new EventSource("/topology/events");
    source.addEventListener("frame", (event) => showFrame(JSON.parse(event.data)));
    source.addEventListener("trouble", (event) => {
      say("trouble", "no figures");
      complain(JSON.parse(event.data).text);
    });
    source.addEventListener("error", () => {
      say("waiting", "not live");
      // A browser tries again by itself where the connection broke, but not where it was refused.
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
    });
  };
  // A page that nobody sees costs nobody a reading.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source.close();
      say("waiting", "not live");
    } else if (source.readyState === EventSource.CLOSED) {
      follow();
    }
  });
  // Where the graph is wider than the screen, its middle has the source.
  const graph = document.querySelector(".graph");
  graph.scrollLeft = (graph.scrollWidth - graph.clientWidth) / 2;
  follow();
})();
