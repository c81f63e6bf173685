// Measurements of one program in, by name and in any order; the median of each out.

export class Figures {
  #all = new Map();

  /** Several of one round, by name. */
  add(round) {
    for (const [name, value] of Object.entries(round)) {
      const values = this.#all.get(name) ?? [];
      values.push(value);
      this.#all.set(name, values);
    }
  }

  medians() {
    return Object.fromEntries([...this.#all].map(([name, values]) => [name, hundredths(median(values))]));
  }
}

export function median(values) {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** What is beyond them is noise. */
export function hundredths(value) {
  return Math.round(value * 100) / 100;
}
