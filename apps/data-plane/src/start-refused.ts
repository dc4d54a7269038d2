/** sysexits.h EX_CONFIG: the same start fails again until somebody follows the remedy. */
export const refusedExitCode = 78;

/** A start that is refused because going on would guess. `remedy` is one sentence for the operator. */
export class StartRefused extends Error {
  override readonly name = 'StartRefused';

  constructor(
    readonly reason: string,
    readonly remedy: string,
    options?: ErrorOptions,
  ) {
    super(`${reason}. Remedy: ${remedy}.`, options);
  }
}
