// The debug information of two objects in; out comes whether it can be seen at once that they describe the same types.
//
// Most edits change what functions do. Their debug information then has the same entries in the same places, and differs
// in what it says of functions: how long their code is, which lines it comes from. To find that out, bytes are compared
// and the trees of entries, and nothing is read of what the entries say: some 20 times faster than comparing type by type.
// The answer "no" only says that the types have to be compared.

import { DW_TAG } from './dwarfabbrev.ts';
import type { DebugFile, DebugSection } from './dwarfsections.ts';
import type { Unit, Units } from './dwarfunit.ts';

/** With more bytes than this that differ it is no longer worth it. */
const MAX_DIFFERENCES = 1 << 14;

/** Throws MalformedError. */
export function describeSame(old: Described, now: Described): boolean {
  // What entries are made of, and the names they point to. rustc writes no units of one type each.
  for (const name of ['.debug_abbrev', '.debug_str', '.debug_line_str', '.debug_str_offsets', '.debug_types']) {
    const [a, ...others] = old.file.sections(name);
    const [b, ...more] = now.file.sections(name);
    if (others.length > 0 || more.length > 0 || (name === '.debug_types' && b !== undefined)) return false;
    if (a === undefined || b === undefined ? a !== b : differences(a, b)?.length !== 0) return false;
  }
  const [before, ...others] = old.file.sections('.debug_info');
  const [after, ...more] = now.file.sections('.debug_info');
  if (before === undefined || after === undefined || others.length > 0 || more.length > 0) return false;
  const places = differences(before, after);
  if (places === undefined || old.units.list.length !== now.units.list.length) return false;
  let next = 0;
  for (const [index, unit] of old.units.list.entries()) {
    const other = now.units.list[index];
    const from = next;
    while (next < places.length && (places[next] ?? 0) < unit.end) next++;
    if (other === undefined || !unit.hasTreeOf(other)) return false;
    if (!places.slice(from, next).every((place) => isOfFunction(unit, other, place))) return false;
  }
  return next === places.length;
}

interface Described {
  readonly file: DebugFile;
  readonly units: Units;
}

/** Where the sections differ, ascending, and each place once or twice; undefined when nearly everywhere. */
function differences(before: DebugSection, after: DebugSection): readonly number[] | undefined {
  const { bytes: a } = before;
  const { bytes: b } = after;
  if (a.length !== b.length) return undefined;
  const places: number[] = [];
  for (let place = 0; place < a.length; place++) {
    if (a[place] === b[place]) continue;
    if (places.push(place) > MAX_DIFFERENCES) return undefined;
  }
  const one = before.relocations();
  const two = after.relocations();
  if (one.places.length !== two.places.length) return undefined;
  for (const [index, place] of one.places.entries()) {
    if (place !== two.places[index]) return undefined;
    if (one.values[index] !== two.values[index]) places.push(place);
  }
  return places.sort((x, y) => x - y);
}

/** The two units have the same entries in the same places; is what differs there said of a function, or of a static's line? */
function isOfFunction(unit: Unit, other: Unit, place: number): boolean {
  const index = unit.lastUpTo(place);
  switch (unit.tag(index)) {
    case DW_TAG.compile_unit:
    // Behind its attributes come those of its blocks, and of what was inlined.
    case DW_TAG.subprogram:
      return true;
    case DW_TAG.formal_parameter:
      return unit.tag(unit.parent(index)) === DW_TAG.subprogram;
    case DW_TAG.variable:
      return unit.linkageName(index) === other.linkageName(index) && unit.entry(index).type === other.entry(index).type;
    default:
      return false;
  }
}
