// Numbers and sizes as text.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A value to `digits` significant digits; whole numbers with thousands separators. */
export function show(value: number | undefined, digits = 5): string {
  if (value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return WHOLE.format(value);
  const size = Math.abs(value);
  const text =
    size >= 1e6 || size < 1e-4
      ? value.toExponential(digits - 2)
      : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${(count / 1e3).toPrecision(3)} kB`;
  if (count < 1e9) return `${Number((count / 1e6).toPrecision(3))} MB`;
  return `${Number((count / 1e9).toPrecision(3))} GB`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${show(count)} ${count === 1 ? one : many}`;
}
