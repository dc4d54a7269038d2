import { DomainError, type Attachment, type Operation, type Volume } from '@cairn/domain';
import type { Repositories } from '@cairn/persistence';

/** The volume an operation acts on. Throws `volume-not-found`; rows of unfinished operations are never purged. */
export async function volumeOf({ volumes }: Repositories, { target }: Operation): Promise<Volume> {
  const volume = target.volumeId && (await volumes.findById(target.volumeId));
  if (volume) return volume;
  throw new DomainError('volume-not-found', {
    message: `There is no volume ${target.volumeId ?? '(none)'}.`,
  });
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
