/** Choices for fuzzers that make some hundred thousand a second: the same seed makes the same ones. */
export class Choices {
  private state: number;

  constructor(seed: number) {
    this.state = seed | 0 || 1;
  }

  /** An integer of 32 bits (Marsaglia's xorshift32). */
  u32(): number {
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    return this.state >>> 0;
  }

  /** An integer of at least 0 and less than `limit`, which is small. */
  below(limit: number): number {
    return this.u32() % limit;
  }

  /** True once in `times`. */
  oneIn(times: number): boolean {
    return this.u32() % times === 0;
  }

  /** A number at which a mistake in arithmetic shows, or any other. */
  interesting(): number {
    const near = this.below(5) - 2;
    switch (this.below(4)) {
      case 0:
        return (2 ** this.below(33) + near) >>> 0;
      case 1:
        return near >>> 0;
      case 2:
        return this.below(64);
      default:
        return this.u32();
    }
  }
}

/** How long a fuzzer goes on, and from which seed. */
export interface FuzzBudget {
  seed: number;
  /** Cases at least. */
  cases: number;
  seconds: number;
}

/** No single case may take longer, on whatever machine: it would be one that does not end. */
const LONGEST_MS = 2_000;

/**
 * Runs cases, each from a seed of its own, and returns how many a second of CPU time. Throws with the seed of the case
 * that failed.
 */
export const fuzz = (budget: FuzzBudget, run: (choices: Choices) => void): number => {
  const cpu = process.cpuUsage();
  let before = performance.now();
  const end = before + budget.seconds * 1000;
  let done = 0;
  const { stackTraceLimit } = Error;
  for (; done < budget.cases || performance.now() < end; done += 1) {
    try {
      // Most cases end with an error; where it was thrown costs more than all the rest.
      Error.stackTraceLimit = 0;
      run(new Choices(Math.imul(budget.seed + done, 0x9e3779b1)));
    } catch (error) {
      throw new Error(`CAIRN_FUZZ_SEED=${budget.seed + done}: ${String(error)}`, { cause: error });
    } finally {
      Error.stackTraceLimit = stackTraceLimit;
    }
    const now = performance.now();
    if (now - before > LONGEST_MS)
      throw new Error(`CAIRN_FUZZ_SEED=${budget.seed + done} took ${now - before} ms`);
    before = now;
  }
  const { user, system } = process.cpuUsage(cpu);
  return (done / (user + system)) * 1e6;
};

/** What the environment asks of a fuzzer: CAIRN_FUZZ_SECONDS, and CAIRN_FUZZ_SEED to begin with. */
export const fuzzBudget = (cases: number): FuzzBudget => ({
  seed: Number(process.env['CAIRN_FUZZ_SEED'] ?? 1),
  cases,
  seconds: Number(process.env['CAIRN_FUZZ_SECONDS'] ?? 0),
});
