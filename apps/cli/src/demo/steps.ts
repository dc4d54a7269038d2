import { CliError } from '../cli-error.js';

/** A step of the demo that failed, with which one it was. */
export class StepFailed extends CliError {}

/** Runs the steps of the demo, printing each with its latency. */
export class Steps {
  private number = 0;

  constructor(private readonly print: (text: string) => void) {}

  /**
   * Runs one step; `describe` adds what came of it. Throws StepFailed with the step's name and the reason.
   */
  async run<T>(
    title: string,
    work: () => Promise<T>,
    describe: (result: T) => string = () => '',
  ): Promise<T> {
    const label = `${String(++this.number).padStart(2)}. ${title}`;
    const started = performance.now();
    let result: T;
    try {
      result = await work();
    } catch (error) {
      this.print(`${label.padEnd(58)} FAILED after ${latency(performance.now() - started)}`);
      const { message } = error instanceof Error ? error : new Error(String(error));
      const remedy = error instanceof CliError ? error.remedy : undefined;
      throw new StepFailed(`step ${this.number} (${title}) failed: ${message}`, remedy, { cause: error });
    }
    const detail = describe(result);
    this.print(
      `${label.padEnd(58)} ${latency(performance.now() - started).padStart(8)}${detail ? `   ${detail}` : ''}`,
    );
    return result;
  }
}

function latency(milliseconds: number): string {
  return milliseconds < 10_000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
