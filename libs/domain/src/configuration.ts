/** One thing wrong with the environment a process was started with, and how to put it right. */
export interface ConfigurationFault {
  name: string;
  message: string;
}

/** Thrown once with every fault; a process prints them and exits 78 (EX_CONFIG, sysexits.h). */
export class ConfigurationError extends Error {
  override readonly name = 'ConfigurationError';

  constructor(readonly faults: readonly ConfigurationFault[]) {
    super(faults.map((fault) => `${fault.name}: ${fault.message}`).join('\n'));
  }
}

/** sysexits.h EX_CONFIG. */
export const EXIT_CONFIGURATION = 78;

/**
 * Reads a process's settings and collects every fault instead of stopping at the first.
 *
 * Read everything, then call `throwIfFaulty` before using any of it: a faulty setting reads as its fallback.
 */
export class EnvironmentReader {
  private readonly faults: ConfigurationFault[] = [];

  /** @param readFile reads a secret's file (`NAME_FILE`); an error it throws becomes a fault. */
  constructor(
    private readonly env: Readonly<Record<string, string | undefined>>,
    private readonly readFile: (path: string) => string,
  ) {}

  /** The setting, or `undefined` when it is absent or empty. */
  find(name: string): string | undefined {
    const value = this.env[name]?.trim();
    return value === '' ? undefined : value;
  }

  /** The setting or its fallback. */
  text(name: string, fallback: string): string {
    return this.find(name) ?? fallback;
  }

  /** A secret given as `NAME` or as a file in `NAME_FILE` (not both), or `undefined`. */
  findSecret(name: string): string | undefined {
    const value = this.find(name);
    const path = this.find(`${name}_FILE`);
    if (path === undefined) return value;
    if (value !== undefined) {
      this.fault(name, `is set together with ${name}_FILE; set only one of them`);
      return undefined;
    }
    try {
      const content = this.readFile(path).trim();
      if (content !== '') return content;
      this.fault(`${name}_FILE`, `names an empty file, ${path}`);
    } catch (error) {
      this.fault(`${name}_FILE`, `cannot be read: ${error instanceof Error ? error.message : String(error)}`);
    }
    return undefined;
  }

  /** A secret that must be there; `remedy` says how to come by one. */
  secret(name: string, remedy: string): string {
    const before = this.faults.length;
    const value = this.findSecret(name);
    if (value !== undefined) return value;
    if (this.faults.length === before)
      this.fault(name, `is not set; ${remedy} (or name a file in ${name}_FILE)`);
    return '';
  }

  /** A whole number within bounds. */
  integer(name: string, fallback: number, bounds: { min: number; max: number }): number {
    const text = this.find(name);
    if (text === undefined) return fallback;
    const value = Number(text);
    if (Number.isSafeInteger(value) && value >= bounds.min && value <= bounds.max) return value;
    this.fault(
      name,
      `is ${JSON.stringify(text)}; it must be a whole number from ${bounds.min} to ${bounds.max}`,
    );
    return fallback;
  }

  /** One of a few words. */
  oneOf<T extends string>(name: string, words: readonly T[], fallback: T): T {
    const text = this.find(name);
    if (text === undefined) return fallback;
    const word = words.find((candidate) => candidate === text);
    if (word !== undefined) return word;
    this.fault(name, `is ${JSON.stringify(text)}; it must be one of ${words.join(', ')}`);
    return fallback;
  }

  /** Checks that a value (a secret among them, which is never printed) is a URL of one of the schemes. */
  checkUrl(name: string, value: string | undefined, schemes: readonly string[]): void {
    if (value === undefined || value === '') return;
    const scheme = URL.canParse(value) ? new URL(value).protocol.replace(':', '') : undefined;
    if (scheme !== undefined && schemes.includes(scheme)) return;
    this.fault(name, `is not a URL of the form ${schemes.map((each) => `${each}://…`).join(' or ')}`);
  }

  /** Adds a fault that the caller found by itself. */
  fault(name: string, message: string): void {
    this.faults.push({ name, message });
  }

  /** Throws ConfigurationError with everything that was wrong. */
  throwIfFaulty(): void {
    if (this.faults.length > 0) throw new ConfigurationError(this.faults);
  }
}
