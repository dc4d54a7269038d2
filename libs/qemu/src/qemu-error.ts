/** What can go wrong with a guest or its monitor; the message of each error says what to do. */
export type QemuErrorCode =
  | 'monitor-unreachable'
  | 'monitor-closed'
  | 'monitor-protocol'
  | 'monitor-timeout'
  | 'back-end-unreachable'
  | 'no-free-port'
  | 'memory-not-shared'
  | 'device-exists'
  | 'plug-failed'
  | 'unplug-timeout'
  | 'migration-failed'
  | 'guest-kernel-missing'
  | 'guest-tool-missing'
  | 'guest-failed'
  | 'guest-timeout'
  | 'command-failed';

/** The one error class of this lib. */
export class QemuError extends Error {
  override readonly name = 'QemuError';

  constructor(
    readonly code: QemuErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** An error that QEMU itself answered to a command; `qmpClass` is for instance `DeviceNotFound`. */
export class QmpCommandError extends Error {
  override readonly name = 'QmpCommandError';

  constructor(
    readonly command: string,
    readonly qmpClass: string,
    readonly description: string,
  ) {
    super(`QEMU refused ${command}: ${description}`);
  }
}
