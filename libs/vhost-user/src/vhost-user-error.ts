/** What a front-end did wrong; each is counted under this name. */
export type VhostUserFault =
  | 'version-unsupported'
  | 'message-unknown'
  | 'message-truncated'
  | 'message-not-negotiated'
  | 'payload-size-invalid'
  | 'descriptor-count-invalid'
  | 'descriptor-type-invalid'
  | 'number-too-large'
  | 'features-not-offered'
  | 'protocol-features-not-offered'
  | 'memory-region-invalid'
  | 'memory-regions-overlap'
  | 'memory-map-failed'
  | 'memory-spans-exhausted'
  | 'memory-truncated'
  | 'vring-index-invalid'
  | 'vring-size-invalid'
  | 'vring-address-unmapped'
  | 'vring-running'
  | 'config-invalid'
  | 'reply-not-taken'
  | 'receive-failed'
  | 'internal';

/** A front-end broke the protocol: its connection is dropped, and nothing else is concerned. */
export class VhostUserError extends Error {
  constructor(
    readonly fault: VhostUserFault,
    readonly details: Readonly<Record<string, string | number>> = {},
    options?: ErrorOptions,
  ) {
    super(`${fault} ${JSON.stringify(details)}`, options);
    this.name = 'VhostUserError';
  }
}
