/** A layer of a chain, as whoever opens it needs it. */
export interface ChainLayer {
  id: string;
  path: string;
  sizeBytes: number;
  zeroMapOffsetBytes: number | undefined;
}

/** What a volume is read from: its layers, the bottom one first and the head last. */
export interface VolumeChain {
  volumeId: string;
  sizeBytes: number;
  layers: ChainLayer[];
}

/** A volume whose head is replaced: from now on, what `chain` says. The layer below the new head must not be written. */
export interface HeadSwitch {
  volumeId: string;
  chain: VolumeChain;
}

/**
 * Lets attached volumes go over to their new heads at one point in time: takes no request of any of them, waits for
 * those in flight, makes the old heads durable (fdatasync), goes over, resumes.
 *
 * When it rejects, some may have gone over and some not: either is right.
 */
export type SwitchHeads = (switches: readonly HeadSwitch[]) => Promise<void>;

/** What the store asks of whoever serves an attached volume. */
export interface LiveVolume {
  /** Resolves when every request that was in flight at the call has completed, and what it wrote is known. */
  barrier(): Promise<void>;
  /**
   * The volume reads the same from this chain; until it is taken, the old one goes on to be right. It may have another
   * head, empty, as after a snapshot that was given up: then it is gone over to as in a switch. Resolves when no file of
   * the old chain will be opened any more: then those that are in neither are removed.
   */
  chainChanged(chain: VolumeChain): Promise<void>;
}
