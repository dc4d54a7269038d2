import { join } from 'node:path';
import { ObjectReader } from '@cairn/agent';
import type { HandedValue } from '@cairn/block-export';
import type { VolumeId } from '@cairn/domain';

// A data plane that starts asks the one that runs for its exports, one after the other:
//
//   successor                         predecessor
//   hello {version} ────────────────▶
//         ◀──────── hello {version}   ends verbs and heartbeats, lets go of the agent API's port
//         ◀──────── welcome {exports} + the pool's lock            or refused {reason}: it serves on
//   take {id} ──────────────────────▶ stops the rings, drains
//         ◀──────── state {id} + memory, rings, connection         or kept {id}: it could not
//   ready {id} ─────────────────────▶ (mapped, files open, nothing started)    or unfit {id}
//         ◀──────── yours {id}        from here on only the successor may serve it
//   done ───────────────────────────▶ drains what is left, exits
//
// Before `yours` the predecessor goes on with an export when the successor dies; after it, its death costs what any
// death of a data plane costs. Whoever gives up while both live says `ended` first, and serves nothing that it gave.

/** Of messages and states; a peer of another version is refused. */
export const handoverVersion = 2;

/** The socket in the state directory at which a running data plane is asked. */
export const handoverSocket = (stateDirectory: string): string => join(stateDirectory, 'handover.sock');

/** Where a successor waits for the descriptors. */
export const descriptorSocket = (stateDirectory: string, pid: number): string =>
  join(stateDirectory, `handover-${pid}.sock`);

/** The longest name of the two, for whoever must know whether the state directory's path is short enough. */
export const longestHandoverSocket = '/handover-4194304.sock'; // PID_MAX_LIMIT, linux/threads.h

const kinds = [
  'hello',
  'welcome',
  'refused',
  'take',
  'state',
  'kept',
  'ready',
  'unfit',
  'yours',
  'done',
  'ended',
] as const;

/** What is said. */
export type HandoverMessage =
  | { readonly kind: 'hello'; readonly version: number; readonly pid: number }
  | { readonly kind: 'welcome'; readonly exports: readonly { readonly id: VolumeId }[] }
  | { readonly kind: 'refused' | 'ended'; readonly reason: string }
  | { readonly kind: 'take' | 'ready' | 'yours'; readonly id: VolumeId }
  | { readonly kind: 'kept' | 'unfit'; readonly id: VolumeId; readonly reason: string }
  | { readonly kind: 'state'; readonly id: VolumeId; readonly state: HandedValue }
  | { readonly kind: 'done' };

/** Reads a message. Throws an Error when it is none. Fields that are not known are passed over. */
export function readMessage(message: unknown): HandoverMessage {
  const reader = ObjectReader.lenient(message);
  const read = readKind(reader, message);
  const [fault] = reader.finish();
  if (fault) throw new Error(`what came is no message of a hand-over: ${fault.field} ${fault.message}`);
  return read;
}

function readKind(reader: ObjectReader, message: unknown): HandoverMessage {
  const kind = reader.word('kind', kinds);
  const id = (): VolumeId => reader.id('id', 'vol');
  const reason = (): string => reader.text('reason', /^.{0,2000}$/su, 'a text');
  switch (kind) {
    case 'hello':
      return { kind, version: reader.integer('version', { min: 1 }), pid: reader.integer('pid', { min: 1 }) };
    case 'welcome':
      return { kind, exports: reader.list('exports', (one) => ({ id: one.id('id', 'vol') })) };
    case 'refused':
    case 'ended':
      return { kind, reason: reason() };
    case 'take':
    case 'ready':
    case 'yours':
      return { kind, id: id() };
    case 'kept':
    case 'unfit':
      return { kind, id: id(), reason: reason() };
    case 'state':
      return { kind, id: id(), state: stateIn(message) };
    case 'done':
      break;
  }
  return { kind };
}

/** Whoever goes on from it reads it field by field. */
const stateIn = (message: unknown): HandedValue => (message as { state?: HandedValue }).state ?? {};
