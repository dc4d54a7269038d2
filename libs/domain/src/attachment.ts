import { DomainError, type Reason } from './errors.js';
import type { AttachmentId, NodeId, ProjectId, VolumeId } from './ids.js';
import { next, statesAllowing, type TransitionTable } from './state-machine.js';

export const attachmentStates = ['attaching', 'attached', 'detaching', 'busy', 'detached', 'error'] as const;
export type AttachmentState = (typeof attachmentStates)[number];
export const attachmentEvents = ['attached', 'failed', 'detach', 'busy', 'detached', 'kept'] as const;
export type AttachmentEvent = (typeof attachmentEvents)[number];

/**
 * Attachment lifecycle. A pair that is not listed is illegal.
 *
 * `busy` is a detach that waits for the guest to let go; `kept` is a detach that gave up at its
 * deadline, which leaves the volume attached as before.
 */
export const attachmentTransitions: TransitionTable<AttachmentState, AttachmentEvent> = {
  attaching: { attached: 'attached', failed: 'error' },
  attached: { detach: 'detaching' },
  detaching: { detached: 'detached', busy: 'busy', kept: 'attached' },
  busy: { detached: 'detached', busy: 'busy', kept: 'attached' },
  detached: {},
  error: {},
};

/** States in which the attachment holds its volume. At most one attachment of a volume is in one of them. */
export const liveAttachmentStates = [
  'attaching',
  'attached',
  'detaching',
  'busy',
] as const satisfies readonly AttachmentState[];

/** True while the attachment holds its volume. */
export function isLiveAttachment(state: AttachmentState): boolean {
  return liveAttachmentStates.some((live) => live === state);
}

/** How a virtual machine reaches the volume. */
export interface AttachmentConnection {
  type: 'vhost-user-blk';
  socketPath: string;
  serial: string;
  numQueues: number;
}

/** A volume given to one guest. */
export interface Attachment {
  id: AttachmentId;
  projectId: ProjectId;
  volumeId: VolumeId;
  /** The caller's own name for the guest; nothing here interprets it. */
  instanceId?: string;
  nodeId?: NodeId;
  state: AttachmentState;
  /** The fence: an agent refuses a generation older than the newest it has seen for the volume. */
  generation: number;
  readOnly: boolean;
  numQueues: number;
  /** Set when the node serves the volume. */
  connection?: AttachmentConnection;
  /** Why it is `error` or `busy`, or why the last detach gave up. */
  reason?: Reason;
  createdAt: Date;
  updatedAt: Date;
  endedAt?: Date;
}

export const NUM_QUEUES_MIN = 1;
export const NUM_QUEUES_MAX = 16;
export const NUM_QUEUES_DEFAULT = 1;

/** The attachment's state after the event. Throws `attachment-wrong-state` with the current and the allowed states. */
export function nextAttachmentState(
  attachment: Pick<Attachment, 'id' | 'state'>,
  event: AttachmentEvent,
): AttachmentState {
  const to = next(attachmentTransitions, attachment.state, event);
  if (to !== undefined) return to;
  const allowedStates = statesAllowing(attachmentTransitions, event);
  throw new DomainError('attachment-wrong-state', {
    message: `Attachment ${attachment.id} is ${attachment.state}; this needs it to be ${allowedStates.join(' or ')}.`,
    currentState: attachment.state,
    allowedStates,
    retryable: attachment.state === 'attaching',
  });
}
