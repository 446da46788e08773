// Making elements. Text is always set as text: class names and ids in a store are data.

type Child = Node | string | null | undefined | false;
type Props = Record<string, unknown>;

/** An element with attributes, `on...` listeners and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value as EventListener);
    } else if (name === "class") {
      element.className = String(value);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/** A labelled drop-down list. */
export function choice(
  label: string,
  id: string,
  onchange: (value: string) => void,
): { field: HTMLLabelElement; select: HTMLSelectElement } {
  const select = h("select", { id, onchange: () => onchange(select.value) });
  return { field: h("label", { class: "field" }, h("span", {}, label), select), select };
}

/** Set a list's options and value; leaves the element alone where nothing changed. */
export function setOptions(
  select: HTMLSelectElement,
  options: [value: string, text: string][],
  value: string,
): void {
  const same =
    select.options.length === options.length &&
    options.every(([v, t], k) => select.options[k].value === v && select.options[k].text === t);
  if (!same) {
    select.replaceChildren(...options.map(([v, text]) => h("option", { value: v }, text)));
  }
  if (select.value !== value) select.value = value;
}

export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
