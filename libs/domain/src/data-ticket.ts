import { createHmac, timingSafeEqual } from 'node:crypto';
import { ID_DIGITS, isId, type SnapshotId } from './ids.js';

/** What the bearer may do, straight with a node, and until when. */
export interface DataTicket {
  /** `write` is putting blocks into the snapshot, and nothing else. */
  access: 'read' | 'write';
  snapshotId: SnapshotId;
  /** Reading only what changed since this one. */
  sinceSnapshotId?: SnapshotId;
  /** Milliseconds, like Date.now(). */
  expiresAt: number;
}

/** Long enough for a page or a block over a slow line, short enough that a leaked address is soon worthless. */
export const DATA_TICKET_MS = 5 * 60_000;

const id = `snap-${ID_DIGITS}`;
const pattern = new RegExp(`^(${id})\\.(${id}|write)?\\.(\\d{1,15})\\.([\\w-]{43})$`);

/** Signs and checks tickets with a key that is derived from the secret which control plane and data planes share. */
export class DataTickets {
  private readonly key: Buffer;

  constructor(secret: string) {
    this.key = createHmac('sha256', secret).update('cairn data ticket 1').digest();
  }

  /** The ticket as a part of an address. */
  seal({ access, snapshotId, sinceSnapshotId, expiresAt }: DataTicket): string {
    const what = access === 'write' ? access : (sinceSnapshotId ?? '');
    const text = `${snapshotId}.${what}.${expiresAt}`;
    return `${text}.${this.sign(text).toString('base64url')}`;
  }

  /** The ticket, or `undefined` for a text that was not sealed with this key or is over. */
  open(text: string, now = Date.now()): DataTicket | undefined {
    const [, snapshotId, what, expiresAt, signature = ''] = pattern.exec(text) ?? [];
    if (!isId('snap', snapshotId)) return undefined;
    const signed = text.slice(0, -signature.length - 1);
    if (!timingSafeEqual(Buffer.from(signature, 'base64url'), this.sign(signed))) return undefined;
    // Trusted from here: the control plane wrote it.
    if (Number(expiresAt) <= now) return undefined;
    return {
      access: what === 'write' ? what : 'read',
      snapshotId,
      ...(isId('snap', what) ? { sinceSnapshotId: what } : {}),
      expiresAt: Number(expiresAt),
    };
  }

  private sign(text: string): Buffer {
    return createHmac('sha256', this.key).update(text).digest();
  }
}
