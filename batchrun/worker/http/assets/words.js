// Numbers, times and states in words, as the command line says them.

export const count = (number) => Math.round(number).toLocaleString("en");
export const counted = (number, noun) =>
  `${count(number)} ${noun}${Math.round(number) === 1 ? "" : noun.endsWith("ch") ? "es" : "s"}`;

// Amounts below $1 have four decimals, or as many as show two digits.
export function money(usd) {
  if (usd === null || usd === undefined) return "";
  if (usd >= 1 || usd === 0)
    return `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return `$${usd.toFixed(Math.min(20, Math.max(4, 1 - Math.floor(Math.log10(Math.abs(usd))))))}`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "";
  if (perSecond === 0) return "0/s";
  if (perSecond >= 0.995) return `${Number(perSecond.toPrecision(3)).toLocaleString("en")}/s`;
  if (perSecond * 60 >= 0.995) return `${Number((perSecond * 60).toPrecision(3))}/min`;
  return `${Number((perSecond * 3600).toPrecision(2))}/h`;
}

export function duration(seconds) {
  if (seconds < 59.5) return `${seconds < 9.95 ? Math.max(0, seconds).toFixed(1) : Math.round(seconds)} s`;
  const [minutes, rest] = [Math.floor(Math.round(seconds) / 60), Math.round(seconds) % 60];
  const two = (number) => String(number).padStart(2, "0");
  if (minutes < 60) return `${minutes} min ${two(rest)} s`;
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  return `${count(Math.floor(minutes / 1440))} days ${Math.floor((minutes % 1440) / 60)} h`;
}

export function size(bytes) {
  for (const [unit, name] of [
    [1e12, "TB"],
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ]) {
    if (bytes >= unit) return `${(bytes / unit).toFixed(bytes >= 100 * unit ? 0 : 1)} ${name}`;
  }
  return `${bytes} B`;
}

export const percent = (part, whole) => {
  if (!whole) return "";
  const value = (100 * part) / whole;
  if (part > 0 && value < 0.1) return "under 0.1 %";
  if (part < whole && value > 99.9) return "over 99.9 %";
  return `${Number(value.toFixed(1))} %`;
};

const SAME_DAY = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const OTHER_DAY = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

// A moment in the time zone of the reader.
export function moment(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  const isToday = at.toDateString() === new Date().toDateString();
  const isThisYear = at.getFullYear() === new Date().getFullYear();
  return at.toLocaleString("en", isToday ? SAME_DAY : isThisYear ? OTHER_DAY : { ...OTHER_DAY, year: "numeric" });
}

export const secondsSince = (iso, until = null) => ((until ? Date.parse(until) : Date.now()) - Date.parse(iso)) / 1000;

export const spaced = (word) => word.replaceAll("_", " ");
