import { describe, expect, it } from 'vitest';
import {
  attachmentEvents,
  attachmentStates,
  attachmentTransitions,
  isLiveAttachment,
  nextAttachmentState,
} from './attachment.js';
import { DomainError } from './errors.js';
import { nodeEvents, nodeStates, nodeTransitions } from './node.js';
import { isFinished, operationEvents, operationStates, operationTransitions } from './operation.js';
import { isTerminal, next, statesAllowing, statesOf, type TransitionTable } from './state-machine.js';
import {
  nextSnapshotState,
  nextWritingState,
  requireWriting,
  snapshotEvents,
  snapshotStates,
  snapshotTransitions,
  writingEvents,
  writingStates,
  writingTransitions,
} from './snapshot.js';
import {
  modificationEvents,
  modificationStates,
  modificationTransitions,
  nextModificationState,
  nextVolumeState,
  requireUnmodified,
  volumeEvents,
  volumeStates,
  volumeTransitions,
} from './volume.js';

/** The legal pairs, written out once more by hand; every other pair of the types must be illegal. */
const legal: Record<string, readonly string[]> = {
  volume: [
    'creating + created → available',
    'creating + failed → error',
    'available + attached → in-use',
    'available + delete → deleting',
    'in-use + detached → available',
    'deleting + failed → error',
    'deleting + removed → deleted',
    'error + delete → deleting',
  ],
  attachment: [
    'attaching + attached → attached',
    'attaching + failed → error',
    'attached + detach → detaching',
    'detaching + busy → busy',
    'detaching + detached → detached',
    'detaching + kept → attached',
    'busy + busy → busy',
    'busy + detached → detached',
    'busy + kept → attached',
  ],
  modification: [
    'none + modify → modifying',
    'modifying + completed → completed',
    'modifying + failed → failed',
    'completed + modify → modifying',
    'failed + modify → modifying',
  ],
  snapshot: [
    'pending + completed → completed',
    'pending + failed → error',
    'pending + cancel → deleting',
    'completed + delete → deleting',
    'completed + lost → error',
    'deleting + removed → deleted',
    'deleting + failed → error',
    'error + delete → deleting',
    'error + found → completed',
  ],
  writing: ['starting + started → open', 'open + complete → completing', 'completing + refused → open'],
  operation: [
    'pending + claim → running',
    'running + claim → running',
    'running + retry → pending',
    'running + succeed → succeeded',
    'running + fail → failed',
  ],
  node: ['ready + heartbeat → ready', 'ready + silent → down', 'down + heartbeat → ready'],
};

function pairsOf<S extends string, E extends string>(
  table: TransitionTable<S, E>,
  states: readonly S[],
  events: readonly E[],
): string[] {
  return states.flatMap((state) =>
    events.flatMap((event) => {
      const to = next(table, state, event);
      return to === undefined ? [] : [`${state} + ${event} → ${to}`];
    }),
  );
}

describe('every (state, event) pair of the', () => {
  it('volume machine is legal exactly where listed', () => {
    expect(pairsOf(volumeTransitions, volumeStates, volumeEvents).toSorted()).toEqual(
      legal['volume']?.toSorted(),
    );
    expect(statesOf(volumeTransitions).toSorted()).toEqual(volumeStates.toSorted());
  });

  it('attachment machine is legal exactly where listed', () => {
    expect(pairsOf(attachmentTransitions, attachmentStates, attachmentEvents).toSorted()).toEqual(
      legal['attachment']?.toSorted(),
    );
    expect(statesOf(attachmentTransitions).toSorted()).toEqual(attachmentStates.toSorted());
  });

  it('modification machine is legal exactly where listed', () => {
    expect(pairsOf(modificationTransitions, modificationStates, modificationEvents).toSorted()).toEqual(
      legal['modification']?.toSorted(),
    );
    expect(statesOf(modificationTransitions).toSorted()).toEqual(modificationStates.toSorted());
  });

  it('snapshot machine is legal exactly where listed', () => {
    expect(pairsOf(snapshotTransitions, snapshotStates, snapshotEvents).toSorted()).toEqual(
      legal['snapshot']?.toSorted(),
    );
    expect(statesOf(snapshotTransitions).toSorted()).toEqual(snapshotStates.toSorted());
  });

  it('machine of a snapshot that is written is legal exactly where listed', () => {
    expect(pairsOf(writingTransitions, writingStates, writingEvents).toSorted()).toEqual(
      legal['writing']?.toSorted(),
    );
    expect(statesOf(writingTransitions).toSorted()).toEqual(writingStates.toSorted());
  });

  it('operation machine is legal exactly where listed', () => {
    expect(pairsOf(operationTransitions, operationStates, operationEvents).toSorted()).toEqual(
      legal['operation']?.toSorted(),
    );
    for (const state of operationStates)
      expect(isFinished(state)).toBe(isTerminal(operationTransitions, state));
  });

  it('node machine is legal exactly where listed', () => {
    expect(pairsOf(nodeTransitions, nodeStates, nodeEvents).toSorted()).toEqual(legal['node']?.toSorted());
  });
});

describe('a refusal', () => {
  const id = 'vol-0123456789abcdef' as const;

  it.each(volumeStates.flatMap((state) => volumeEvents.map((event) => [state, event] as const)))(
    'of a volume in %s at %s names the current and the allowed states, or there is none',
    (state, event) => {
      const to = next(volumeTransitions, state, event);
      if (to !== undefined) {
        expect(nextVolumeState({ id, state }, event)).toBe(to);
        return;
      }
      const error = errorOf(() => nextVolumeState({ id, state }, event));
      expect(['volume-in-use', 'volume-wrong-state']).toContain(error.code);
      expect(error.details.currentState).toBe(state);
      expect(error.details.allowedStates).toEqual(statesAllowing(volumeTransitions, event));
      expect(error.retryable).toBe(state === 'creating');
    },
  );

  it.each([
    ['in-use', 'delete', 'volume-in-use'],
    ['in-use', 'attached', 'volume-in-use'],
    ['creating', 'delete', 'volume-wrong-state'],
    ['deleted', 'attached', 'volume-wrong-state'],
  ] as const)('of a volume in %s at %s is %s', (state, event, code) => {
    expect(errorOf(() => nextVolumeState({ id, state }, event)).code).toBe(code);
  });

  it.each(attachmentStates.flatMap((state) => attachmentEvents.map((event) => [state, event] as const)))(
    'of an attachment in %s at %s names the current and the allowed states, or there is none',
    (state, event) => {
      const attachment = { id: 'att-0123456789abcdef', state } as const;
      const to = next(attachmentTransitions, state, event);
      if (to !== undefined) {
        expect(nextAttachmentState(attachment, event)).toBe(to);
        return;
      }
      const error = errorOf(() => nextAttachmentState(attachment, event));
      expect(error.code).toBe('attachment-wrong-state');
      expect(error.details).toMatchObject({
        currentState: state,
        allowedStates: statesAllowing(attachmentTransitions, event),
      });
    },
  );
});

describe('a refusal of a modification', () => {
  it.each(modificationStates.flatMap((state) => modificationEvents.map((event) => [state, event] as const)))(
    'in %s at %s is busy with the states, or there is none',
    (state, event) => {
      const volume = { id: 'vol-0123456789abcdef', modification: { state } } as const;
      const to = next(modificationTransitions, state, event);
      if (to !== undefined) {
        expect(nextModificationState(volume, event)).toBe(to);
        return;
      }
      const error = errorOf(() => nextModificationState(volume, event));
      expect(error).toMatchObject({ code: 'volume-busy', retryable: state === 'modifying' });
      expect(error.details.allowedStates).toEqual(statesAllowing(modificationTransitions, event));
    },
  );

  it('comes exactly while one is on its way', () => {
    for (const state of modificationStates) {
      const work = () => requireUnmodified({ id: 'vol-0123456789abcdef', modification: { state } });
      if (state === 'modifying') expect(errorOf(work).code).toBe('volume-busy');
      else expect(work).not.toThrow();
    }
  });
});

describe('a refusal of a snapshot', () => {
  it.each(snapshotStates.flatMap((state) => snapshotEvents.map((event) => [state, event] as const)))(
    'in %s at %s names the current and the allowed states, or there is none',
    (state, event) => {
      const snapshot = { id: 'snap-0123456789abcdef', state } as const;
      const to = next(snapshotTransitions, state, event);
      if (to !== undefined) {
        expect(nextSnapshotState(snapshot, event)).toBe(to);
        return;
      }
      const error = errorOf(() => nextSnapshotState(snapshot, event));
      expect(error).toMatchObject({ code: 'snapshot-wrong-state', retryable: state === 'pending' });
      expect(error.details).toMatchObject({
        currentState: state,
        allowedStates: statesAllowing(snapshotTransitions, event),
      });
    },
  );
});

describe('a snapshot that is written from blocks', () => {
  const id = 'snap-0123456789abcdef';

  it.each(writingStates.flatMap((writing) => writingEvents.map((event) => [writing, event] as const)))(
    'in %s is busy at %s, or goes on',
    (writing, event) => {
      const snapshot = { id, state: 'pending', writing } as const;
      const to = next(writingTransitions, writing, event);
      if (to !== undefined) expect(nextWritingState(snapshot, event)).toBe(to);
      else expect(errorOf(() => nextWritingState(snapshot, event)).code).toBe('snapshot-busy');
    },
  );

  it('takes blocks exactly while it is open', () => {
    expect(() => requireWriting({ id, state: 'pending', writing: 'open' }, 'open')).not.toThrow();
    for (const writing of ['starting', 'completing'] as const)
      expect(errorOf(() => requireWriting({ id, state: 'pending', writing }, 'open')).code).toBe(
        'snapshot-busy',
      );
    for (const state of snapshotStates) {
      const error = errorOf(() => requireWriting({ id, state }, 'open'));
      expect(error).toMatchObject({ code: 'snapshot-wrong-state' });
      expect(errorOf(() => nextWritingState({ id, state }, 'complete'))).toMatchObject({
        code: 'snapshot-wrong-state',
      });
    }
  });
});

it('an attachment holds its volume exactly until a state that nothing leaves', () => {
  for (const state of attachmentStates) {
    expect(isLiveAttachment(state)).toBe(!isTerminal(attachmentTransitions, state));
  }
});

function errorOf(work: () => unknown): DomainError {
  try {
    work();
  } catch (error) {
    if (error instanceof DomainError) return error;
    throw error;
  }
  throw new Error('It did not throw.');
}
