import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import type { Exchange } from './exchange.js';
import type { NextMemory } from './front-end-memory.js';
import { SharedArea } from './memory-table.js';
import { MAX_MEMORY_SLOTS, inflightPayload, u64Payload } from './messages.js';
import type { Serving, Verb } from './verb.js';
import { VhostUserError } from './vhost-user-error.js';

// What the front-end shares: guest memory, the dirty log, the record of requests in flight.

export const setMemTable: Verb = (serving, exchange) => {
  const regions = exchange.message.regions();
  changeMemory(serving, exchange, serving.frontEnd.memory.replace(regions, exchange.keepAll()));
};

export const getMaxMemSlots: Verb = (_, exchange) => exchange.reply(u64Payload(MAX_MEMORY_SLOTS));

export const addMemReg: Verb = (serving, exchange) => {
  const region = exchange.message.region();
  changeMemory(serving, exchange, serving.frontEnd.memory.add(region, exchange.keep(exchange.onlyFd)));
};

export const remMemReg: Verb = (serving, exchange) =>
  changeMemory(serving, exchange, serving.frontEnd.memory.remove(exchange.message.region()));

export const setLogBase: Verb = (serving, exchange) => {
  const { sizeBytes, offsetBytes } = exchange.message.log();
  const log = SharedArea.map(exchange.keep(exchange.onlyFd), offsetBytes, sizeBytes);
  let used = false;
  serving.whileStopped(exchange, {
    // What an earlier connection's requests still write would be in no log, and a migration would miss it.
    alone: true,
    change: () => {
      used = true;
      serving.frontEnd.areas.useLog(log);
    },
    settled: () => {
      if (!used) log.unmap();
    },
    answer: () => exchange.reply(u64Payload(0)),
  });
};

export const setLogFd: Verb = ({ frontEnd }, exchange) => {
  frontEnd.logFd = exchange.keepInsteadOf(frontEnd.logFd);
  exchange.acknowledge();
};

/** Makes the area in which requests in flight are tracked, and gives it to the front-end to keep. */
export const getInflightFd: Verb = ({ frontEnd }, exchange) => {
  const { numQueues, queueSize } = exchange.message.inflight();
  const sizeBytes = frontEnd.areas.newInflightBytes(numQueues, queueSize, frontEnd.rings.layout);
  const fd = check('memfd_create', native.memfd('cairn-inflight', sizeBytes));
  try {
    const area = { sizeBytes, offsetBytes: 0, numQueues, queueSize };
    exchange.reply(inflightPayload(area, exchange.message.payload.length), [fd]);
  } finally {
    closeSync(fd);
  }
};

export const setInflightFd: Verb = ({ frontEnd }, exchange) => {
  const { areas, backend, rings } = frontEnd;
  if (rings.anyRunning) throw new VhostUserError('vring-running');
  areas.useInflight(exchange.message.inflight(), exchange.keep(exchange.onlyFd), rings.layout);
  const { driverState } = areas;
  if (driverState === undefined) areas.keepDriverState(backend.driverState);
  else backend.restoreDriverState(driverState);
  exchange.acknowledge();
};

const changeMemory = (serving: Serving, exchange: Exchange, next: NextMemory): void => {
  const { memory } = serving.frontEnd;
  let used = false;
  serving.whileStopped(exchange, {
    change: () => {
      used = true;
      memory.commit(next);
    },
    settled: () => {
      if (!used) memory.discard(next);
    },
  });
};
