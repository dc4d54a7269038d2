import { FakeDriver } from './fake-driver.js';
import { FakePackedDriver } from './fake-packed-driver.js';
import type { GuestRam } from './guest-ram.js';
import type { RingDriver, RingPlace } from './ring-driver.js';

/** Places an empty ring in guest memory, of the layout asked for. */
export const makeRingDriver = (
  ram: GuestRam,
  { packed, ...place }: RingPlace & { packed: boolean },
): RingDriver => (packed ? new FakePackedDriver(ram, place) : new FakeDriver(ram, place));
