import { DomainError, type Attachment, type NodeId, type Operation, type Volume } from '@cairn/domain';
import type { Repositories } from '@cairn/persistence';

/** The volume an operation acts on. Throws `volume-not-found`; rows of unfinished operations are never purged. */
export async function volumeOf({ volumes }: Repositories, { target }: Operation): Promise<Volume> {
  const volume = target.volumeId && (await volumes.findById(target.volumeId));
  if (volume) return volume;
  throw new DomainError('volume-not-found', {
    message: `There is no volume ${target.volumeId ?? '(none)'}.`,
  });
}

/** The volume an operation acts on, which has bytes on a node. Throws `volume-not-found`. */
export async function placedVolumeOf(
  repositories: Repositories,
  operation: Operation,
): Promise<Volume & { nodeId: NodeId }> {
  const volume = await volumeOf(repositories, operation);
  const { nodeId } = volume;
  if (nodeId !== undefined) return { ...volume, nodeId };
  throw new DomainError('internal', { message: `${volume.id} is ${volume.state} and has no node.` });
}

/** The attachment an operation acts on. Throws `attachment-not-found`. */
export async function attachmentOf(
  { attachments }: Repositories,
  { target }: Operation,
): Promise<Attachment> {
  const attachment = target.attachmentId && (await attachments.findById(target.attachmentId));
  if (attachment) return attachment;
  throw new DomainError('attachment-not-found', {
    message: `There is no attachment ${target.attachmentId ?? '(none)'}.`,
  });
}
