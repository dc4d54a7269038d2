import { native } from '@cairn/native';
import { FEATURE, FeatureSet } from '@cairn/virtio';
import { PROTOCOL_FEATURES } from './front-end.js';
import { u64Payload } from './messages.js';
import type { Verb } from './verb.js';
import { VhostUserError } from './vhost-user-error.js';

// The device as a whole: features, configuration, status, reset, and the channel back to the front-end.

const LOG_ALL_MASK = 1 << FEATURE.VHOST_LOG_ALL;

/**
 * Where the configuration space begins among the registers of virtio-mmio (virtio 1.2 §4.2.2), and, for Cloud Hypervisor,
 * in GET_CONFIG. No space has anything so far behind its beginning (VHOST_USER_MAX_CONFIG_SIZE).
 */
const MMIO_CONFIG_OFFSET = 0x100;

export const getFeatures: Verb = ({ frontEnd }, exchange) => {
  const { low, high } = frontEnd.backend.offeredFeatures;
  exchange.reply(u64Payload(low, high));
};

export const setFeatures: Verb = (serving, exchange) => {
  const { backend, rings } = serving.frontEnd;
  const { message } = exchange;
  const features = FeatureSet.fromWords(message.u32(0), message.u32(4));
  if (!features.isSubsetOf(backend.offeredFeatures)) {
    throw new VhostUserError('features-not-offered', { low: features.low, high: features.high });
  }
  const same = features.low === rings.features.low && features.high === rings.features.high;
  // Dirty logging goes on and off while the guest runs; nothing else may change then.
  const onlyLog =
    ((features.low ^ rings.features.low) & ~LOG_ALL_MASK) === 0 && features.high === rings.features.high;
  if (!onlyLog && rings.anyRunning) throw new VhostUserError('vring-running');
  const change = (): void => {
    if (!same) {
      rings.features = features;
      backend.setFeatures(features);
    }
    // vhost-user spec, "Ring states": without protocol features rings are enabled from the start.
    if (!features.has(FEATURE.VHOST_USER_PROTOCOL_FEATURES)) {
      for (const vring of rings.all) vring.enabled = true;
    }
  };
  if (!same) return serving.whileStopped(exchange, { change });
  change();
  rings.startAll();
  exchange.acknowledge();
};

export const getProtocolFeatures: Verb = (_, exchange) => exchange.reply(u64Payload(PROTOCOL_FEATURES));

export const setProtocolFeatures: Verb = ({ frontEnd }, exchange) => {
  frontEnd.agreeOn(exchange.message.u32(0), exchange.message.u32(4));
  exchange.acknowledge();
};

/** SET_OWNER says nothing that we do not know; RESET_OWNER is deprecated, "back-ends should ignore it" (vhost-user spec). */
export const owner: Verb = (_, exchange) => exchange.acknowledge();

export const getQueueNum: Verb = ({ frontEnd }, exchange) =>
  exchange.reply(u64Payload(frontEnd.backend.queueCount));

export const setBackendChannel: Verb = ({ frontEnd }, exchange) => {
  native.setNonblocking(exchange.onlyFd, 1);
  frontEnd.backendFd = exchange.keepInsteadOf(frontEnd.backendFd);
  exchange.acknowledge();
};

export const getConfig: Verb = ({ frontEnd }, exchange) => {
  const { offset, size } = exchange.message.config();
  const data = frontEnd.backend.readConfig(
    offset < MMIO_CONFIG_OFFSET ? offset : offset - MMIO_CONFIG_OFFSET,
    size,
  );
  // vhost-user spec, GET_CONFIG: an empty payload tells of the error.
  if (!data) return exchange.reply(new Uint8Array(0));
  const payload = exchange.message.payload.slice();
  payload.set(data, 12);
  exchange.reply(payload);
};

export const setConfig: Verb = ({ frontEnd, wait }, exchange) => {
  const { areas, backend } = frontEnd;
  const { offset, data } = exchange.message.config();
  wait((resume) =>
    backend.writeConfig(offset, data, (accepted) => {
      resume(() => {
        if (!accepted) throw new VhostUserError('config-invalid', { offset, size: data.length });
        areas.keepDriverState(backend.driverState);
        exchange.acknowledge();
      });
    }),
  );
};

export const getStatus: Verb = ({ frontEnd }, exchange) => exchange.reply(u64Payload(frontEnd.status));

/**
 * A status of 0 is all that tells of a reset, and QEMU sends it also when it only pauses or migrates the guest. QEMU
 * before 8.1 then asks where the rings have stopped: that, what the guest has configured, and the record of a packed
 * ring, which alone tells where it was to who comes after a crash, are not forgotten. A driver that starts over is
 * given a new base for its rings.
 */
export const setStatus: Verb = ({ frontEnd, wait }, exchange) => {
  frontEnd.status = exchange.message.u32(0) & 0xff;
  if (frontEnd.status !== 0) return exchange.acknowledge();
  wait((resume) =>
    frontEnd.rings.stopAll(() => {
      frontEnd.rings.disableAll();
      resume(() => exchange.acknowledge());
    }),
  );
};

/** vhost-user spec, RESET_DEVICE: all rings disabled, the device as after a reset; memory and sockets stay. */
export const resetDevice: Verb = ({ frontEnd, wait }, exchange) => {
  const { areas, backend, rings } = frontEnd;
  wait((resume) =>
    rings.stopAll(() => {
      rings.reset();
      frontEnd.status = 0;
      backend.reset();
      areas.keepDriverState(backend.driverState);
      resume(() => exchange.acknowledge());
    }),
  );
};
