// What is shown, and its form in the address bar, so that a view can be sent.

import { COLOURS, fixedRange, type ScaleChoice } from "./colour.js";
import { figureIndex } from "./figures.js";
import type { Store } from "./store.js";

export type View = "images" | "compare" | "classes" | "about";
export type Show = "pair" | "map" | "overlay" | "image";

export interface State {
  view: View;
  map: string;
  mode: number | null; // null: the first mode that is not constant; info.modes: sum over modes
  show: Show;
  mix: number; // weight of the map where it lies over the image
  colours: string;
  range: string; // shared, full, image, or low..high
  scale: ScaleChoice;
  classes: string; // all, none, or a class's position
  group: number | null; // only images of this group
  sort: string; // store, or figure.asc, figure.desc
  size: number;
  at: number; // position of the first image on the screen
  image: number | null; // row of the image that is large
  patch: [number, number] | null;
  a: string; // what is compared: iROW, cCLASS, all
  b: string; // or o: the same as a, of the second store
  difference: boolean; // class means as differences from the mean of all images
  raw: boolean; // plain means, where geometric ones can be shown
}

export const SIZES = [64, 96, 128, 176, 240];

export function initialState(store: Store): State {
  return {
    view: "images",
    map: [...store.maps.keys()][0],
    mode: null,
    show: store.thumbnails ? "pair" : "map",
    mix: 0.6,
    colours: "viridis",
    range: "shared",
    scale: "auto",
    classes: "all",
    group: null,
    sort: "store",
    size: 128,
    at: 0,
    image: null,
    patch: null,
    a: "",
    b: "",
    difference: false,
    raw: false,
  };
}

/** The part of the address after #, without what has its initial value. */
export function toHash(state: State, initial: State): string {
  const parts: string[] = [];
  for (const key of Object.keys(initial) as (keyof State)[]) {
    const value = state[key];
    if (JSON.stringify(value) === JSON.stringify(initial[key])) continue;
    const text = Array.isArray(value) ? value.join(",") : String(value === true ? 1 : value);
    parts.push(`${key}=${encodeURIComponent(text).replaceAll("%2C", ",")}`);
  }
  return parts.join("&");
}

/** State of an address; `refused` names the parts that mean nothing in this store. */
export function fromHash(
  hash: string,
  store: Store,
  beside: boolean,
): { state: State; refused: string[] } {
  const state = initialState(store);
  const refused: string[] = [];
  const asked = new URLSearchParams(hash.replace(/^#/, ""));
  for (const [key, value] of asked) {
    if (key === "b" && value === "o" && beside) state.b = value;
    else if (!apply(state, key, value, store)) refused.push(`${key}=${value}`);
  }
  const info = store.maps.get(state.map)!;
  const highest = info.hasModes ? info.modes : 0;
  if (state.mode !== null && state.mode > highest) {
    refused.push(`mode=${state.mode}`);
    state.mode = null;
  }
  return { state, refused };
}

const WHOLE = /^\d{1,9}$/;

function apply(state: State, key: string, value: string, store: Store): boolean {
  const set = <K extends "view" | "show" | "scale">(options: State[K][]): boolean => {
    const found = options.find((option) => option === value);
    if (found !== undefined) (state as Record<K, State[K]>)[key as K] = found;
    return found !== undefined;
  };
  const whole = WHOLE.test(value) ? Number(value) : -1;
  switch (key) {
    case "view":
      return set<"view">(["images", "compare", "classes", "about"]);
    case "map":
      return store.maps.has(value) && !!(state.map = value);
    case "mode":
      if (whole < 0) return false;
      state.mode = whole;
      return true;
    case "show":
      return set<"show">(store.thumbnails ? ["pair", "map", "overlay", "image"] : ["map"]);
    case "mix": {
      const mix = Number(value);
      if (value === "" || !(mix >= 0 && mix <= 1)) return false;
      state.mix = mix;
      return true;
    }
    case "colours":
      return COLOURS.includes(value) && !!(state.colours = value);
    case "range":
      if (!["shared", "full", "image"].includes(value) && !fixedRange(value)) return false;
      state.range = value;
      return true;
    case "scale":
      return set<"scale">(["auto", "linear", "log"]);
    case "classes":
      if (value !== "all" && value !== "none" && !(whole >= 0 && whole < store.classNames.length)) {
        return false;
      }
      state.classes = value;
      return true;
    case "group":
      if (whole < 0 || whole >= store.groupNames.length) return false;
      state.group = whole;
      return true;
    case "sort": {
      const [figure, direction] = value.split(".");
      if (value !== "store" && !(figureIndex(figure) >= 0 && /^(asc|desc)$/.test(direction))) {
        return false;
      }
      state.sort = value;
      return true;
    }
    case "size":
      if (!SIZES.includes(whole)) return false;
      state.size = whole;
      return true;
    case "at":
      if (whole < 0) return false;
      state.at = Math.min(whole, store.n - 1);
      return true;
    case "image":
      if (whole < 0 || whole >= store.n) return false;
      state.image = whole;
      return true;
    case "patch": {
      const parts = value.split(",");
      if (parts.length !== 2 || !parts.every((part) => WHOLE.test(part))) return false;
      const [row, col] = parts.map(Number);
      if (row >= store.grid[0] || col >= store.grid[1]) return false;
      state.patch = [row, col];
      return true;
    }
    case "a":
    case "b":
      if (!isSubject(value, store)) return false;
      state[key] = value;
      return true;
    case "difference":
    case "raw":
      state[key] = value === "1";
      return value === "1";
    default:
      return false;
  }
}

/** iROW, cCLASS or all. */
export function isSubject(text: string, store: Store): boolean {
  if (text === "all") return true;
  const number = text.slice(1);
  if (!WHOLE.test(number)) return false;
  const limit = text[0] === "i" ? store.n : text[0] === "c" ? store.classNames.length : 0;
  return Number(number) < limit;
}
