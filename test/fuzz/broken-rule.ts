import { RING_FEATURE } from '@cairn/virtio/testing';
import type { Random } from '../support/random.js';
import type { ModelGuest } from './model-guest.js';
import type { RawRing } from './raw-ring.js';

/** A rule that somebody breaks, and what that must cost. */
export interface BrokenRule {
  name: string;
  fault: string;
  costs: 'ring' | 'connection';
  /** Is it a rule for a guest with this set-up? Default: for any. */
  concerns?: (guest: ModelGuest) => boolean;
  /** Breaks it; the ring is one that runs. */
  break: (guest: ModelGuest, ring: RawRing, random: Random) => void | Promise<void>;
}

export const isPacked = ({ raw }: ModelGuest): boolean => raw.options.packed ?? false;
export const isSplit = (guest: ModelGuest): boolean => !isPacked(guest);
export const hasTables = ({ raw }: ModelGuest): boolean => raw.has(RING_FEATURE.INDIRECT_DESC);
