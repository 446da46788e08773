// Opens the store that the address or the page names, and puts the views together.

import { About } from "./about.js";
import { App } from "./app.js";
import { Beside } from "./beside.js";
import { Classes } from "./classes.js";
import { Compare } from "./compare.js";
import { Detail } from "./detail.js";
import { h, setText } from "./dom.js";
import { plural, show } from "./format.js";
import { Gallery } from "./gallery.js";
import { Legend } from "./pane.js";
import type { View } from "./state.js";
import { reason } from "./source.js";
import { Store } from "./store.js";
import { Tools } from "./tools.js";

const VIEWS: [View, string][] = [
  ["images", "Images"],
  ["compare", "Compare"],
  ["classes", "Classes"],
  ["about", "About"],
];

const KEYS: [string, string][] = [
  ["← → ↑ ↓", "move in the grid; on a large map, move the marked patch"],
  ["Enter", "show the image large"],
  ["N, P", "next and previous image in the order shown"],
  ["[ and ]", "previous and next mode"],
  ["M", "next map"],
  ["1 2 3 4", "images, compare, classes, about"],
  ["Escape", "close the large image"],
  ["?", "this list"],
];

const LATER = 1500; // ms after the first view

/** Where a store is: ?store= or ?with=, or what `frictionstore view` wrote into the page. */
function storeAddress(name: "store" | "with"): URL | null {
  const asked = new URLSearchParams(location.search).get(name);
  const written = document
    .querySelector<HTMLMetaElement>(`meta[name="frictionstore-${name}"]`)
    ?.getAttribute("content");
  const text = asked ?? written;
  if (!text) return null;
  const url = new URL(text, location.href);
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new Error(
      url.protocol === "file:"
        ? "a browser does not let a page from a file read other files: serve this folder over " +
            "HTTP with range requests, or use frictionstore view"
        : `${url.protocol} addresses cannot be read by a browser: expected http or https`,
    );
  }
  return url;
}

function start(app: App): void {
  const { store } = app;
  const facts = [
    plural(store.n, "image"),
    `${store.grid[0]} × ${store.grid[1]} patches`,
    plural(Math.max(...[...store.maps.values()].map((info) => info.modes)), "mode"),
    store.classNames.length > 0 ? plural(store.classNames.length, "class", "classes") : "no labels",
    ...(store.groups ? [plural(store.groupNames.length, "group")] : []),
    ...(app.beside ? [`beside ${app.beside.names[1]}`] : []),
  ];
  document.title = `${store.name} · friction maps`;

  const gallery = new Gallery(app);
  const detail = new Detail(app);
  const compare = new Compare(app);
  const classes = new Classes(app);
  const about = new About(app);
  const tools = new Tools(app);
  const legend = new Legend();
  const status = h("p", { class: "status", role: "status", "aria-live": "polite" });
  const pointer = h("p", { class: "under-pointer", "data-test": "hover" });
  const go = h("button", { type: "button", hidden: true, onclick: () => app.allow() }, "Read them");
  const line = h(
    "div",
    { class: "line", role: "region", "aria-label": "What is shown" },
    h("div", { class: "saying" }, status, go),
    legend.element,
    pointer,
  );
  const problems = h("div", { class: "problems", role: "alert", hidden: true });
  const help = h(
    "dialog",
    { class: "help", "aria-label": "Keys" },
    h("h2", {}, "Keys"),
    h(
      "dl",
      {},
      ...KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]),
    ),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  );
  const copied = h("span", { class: "copied", role: "status" });
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(app.link);
      setText(copied, "link copied");
    } catch {
      setText(copied, "copy it from the address bar");
    }
    setTimeout(() => setText(copied, ""), 2500);
  };
  const tabs = VIEWS.map(([view, name]) =>
    h(
      "button",
      { type: "button", "data-view": view, onclick: () => app.set({ view }, true) },
      name,
    ),
  );
  document.body.replaceChildren(
    h(
      "a",
      {
        class: "skip",
        href: "#main",
        onclick: (event: Event) => {
          event.preventDefault();
          gallery.focus();
        },
      },
      "Skip to the images",
    ),
    h(
      "header",
      { class: "top" },
      h("div", { class: "names" }, h("h1", {}, store.name), h("p", {}, facts.join(" · "))),
      h("nav", { "aria-label": "Views" }, ...tabs),
      h(
        "div",
        { class: "actions" },
        copied,
        h("button", { type: "button", onclick: () => void copy() }, "Copy link"),
        h("button", { type: "button", "aria-label": "Keys", onclick: () => help.showModal() }, "?"),
      ),
    ),
    tools.element,
    problems,
    line,
    h(
      "main",
      { id: "main" },
      gallery.element,
      detail.element,
      compare.element,
      classes.element,
      about.element,
    ),
    help,
  );

  const close = (): void => {
    app.set({ image: null }, true);
    gallery.focus();
  };
  detail.onclose = close;
  detail.onstep = (step) => gallery.step(step);
  gallery.onhover = (text) => setText(pointer, text);
  let problemText = "";
  let opened: number | null = null;

  app.draw = () => {
    const { state } = app;
    for (const tab of tabs) {
      if (tab.dataset.view === state.view) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    tools.draw();
    const images = state.view === "images";
    gallery.element.hidden = !images;
    compare.element.hidden = state.view !== "compare";
    classes.element.hidden = state.view !== "classes";
    about.element.hidden = state.view !== "about";
    document.body.classList.toggle("with-detail", images && state.image !== null);
    if (images) {
      // The large image first: the grid gets the room that it leaves.
      detail.draw();
      gallery.draw();
    } else {
      detail.element.hidden = true;
    }
    if (state.view === "compare" || state.view === "classes") {
      const view = state.view === "compare" ? compare : classes;
      view.prepare();
      app.plan();
      view.draw();
    }
    if (state.view === "about") about.draw();

    const figures = app.figures;
    const known = figures.extent(app.plane).images > 0;
    legend.draw(images && known ? app.range() : null, app.table, app.info.unit);
    const work = app.work();
    go.hidden = !work?.waiting;
    setText(status, work ? app.workText(work) : images ? orderText(app) : "");
    line.hidden = !images && !work;

    const texts = [
      ...app.problems,
      ...(app.refused.length > 0
        ? [`The address asks for what this store does not have: ${app.refused.join(", ")}`]
        : []),
    ];
    const text = texts.join("\n");
    if (text !== problemText) {
      problemText = text;
      problems.hidden = texts.length === 0;
      problems.replaceChildren(
        ...texts.slice(0, 3).map((line) => h("p", {}, line)),
        texts.length > 3 ? h("p", {}, `and ${texts.length - 3} more`) : "",
        h(
          "div",
          { class: "buttons" },
          app.problems.length > 0
            ? h("button", { type: "button", onclick: () => app.retry() }, "Try again")
            : "",
          h(
            "button",
            {
              type: "button",
              onclick: () => {
                app.refused = [];
                problems.hidden = true;
              },
            },
            "Hide",
          ),
        ),
      );
    }
    // On a narrow screen the large image covers the grid, so the keyboard goes there.
    if (
      images &&
      state.image !== null &&
      opened === null &&
      matchMedia("(max-width: 899px)").matches
    ) {
      detail.focus();
    }
    opened = images ? state.image : null;
    const idle = !app.busy && (!images || gallery.complete) && (!work || work.waiting);
    if (idle && performance.getEntriesByName("first-view").length === 0) {
      performance.mark("first-view");
      setTimeout(() => void app.checkMetadata(), LATER);
    }
    document.body.dataset.idle = String(idle);
  };

  addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (target.closest("input[type=text], select")) return;
    const { info, state } = app;
    const planes = info.hasModes ? info.modes + 1 : 1;
    const maps = [...store.maps.keys()];
    const next = (event.key === "]" ? 1 : -1) + app.plane + planes;
    // Before anything has the focus, the grid has it.
    if (target === document.body && state.view === "images" && gallery.key(event)) {
      gallery.focus();
      return;
    }
    switch (event.key) {
      case "Escape":
        if (state.image !== null && state.view === "images") close();
        break;
      case "n":
      case "N":
        if (state.view === "images") gallery.step(1);
        break;
      case "p":
      case "P":
        if (state.view === "images") gallery.step(-1);
        break;
      case "[":
      case "]":
        if (info.hasModes) app.set({ mode: next % planes });
        break;
      case "m":
      case "M":
        app.set({ map: maps[(maps.indexOf(state.map) + 1) % maps.length] });
        break;
      case "1":
      case "2":
      case "3":
      case "4":
        app.set({ view: VIEWS[Number(event.key) - 1][0] }, true);
        break;
      case "?":
        help.showModal();
        break;
      default:
        return;
    }
    event.preventDefault();
  });

  app.plan();
  app.draw();
}

function orderText(app: App): string {
  const { state, store } = app;
  const count = plural(app.filtered.length, "image");
  const of = app.filtered.length === store.n ? "" : ` of ${show(store.n)}`;
  const figure = app.sortFigure;
  const order = figure
    ? `${state.sort.endsWith("asc") ? "smallest" : "largest"} ${figure.name} of ${app.title} first`
    : "in the store's order";
  const constant = app.figures.isConstant(app.plane)
    ? ` ${app.planeName(app.plane) || app.state.map} is constant: ` +
      `every value is ${show(app.figures.extent(app.plane).min, 7)} in the ` +
      `${plural(app.figures.extent(app.plane).images, "image")} read.`
    : "";
  return `${count}${of}, ${order}.${constant}`;
}

function failed(message: string): void {
  const input = h("input", {
    type: "url",
    name: "store",
    size: "50",
    placeholder: "https://host/name.zarr",
  });
  document.body.replaceChildren(
    h(
      "main",
      { class: "failed" },
      h("h1", {}, "No store to show"),
      h("p", { role: "alert" }, message),
      h(
        "form",
        { method: "get" },
        h("label", { class: "field" }, h("span", {}, "Address of a store"), input),
        h("button", {}, "Open"),
      ),
    ),
  );
  document.body.dataset.idle = "true";
}

/** The second store; or why it cannot be read, which does not keep one from the first. */
async function openBeside(): Promise<Store | string | null> {
  try {
    const address = storeAddress("with");
    return address && (await Store.open(address));
  } catch (error) {
    return `The second store cannot be shown: ${reason(error)}`;
  }
}

async function main(): Promise<void> {
  try {
    const address = storeAddress("store");
    if (!address) {
      failed(
        "This page was not told which store to read: name one here, or in its address as ?store=…",
      );
      return;
    }
    const [store, beside] = await Promise.all([Store.open(address), openBeside()]);
    start(
      typeof beside === "object"
        ? new App(store, beside && new Beside(store, beside))
        : new App(store, null, beside),
    );
  } catch (error) {
    failed(reason(error));
  }
}

void main();
