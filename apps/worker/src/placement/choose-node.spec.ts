import { DomainError, GIB, type Node } from '@cairn/domain';
import { describe, expect, it } from 'vitest';
import { chooseNode } from './choose-node.js';

/** A ready node with one pool of 100 GiB, half of it free. */
function nodeOf(
  digit: string,
  changes: { state?: Node['state']; freeGib?: number; provisionedGib?: number; low?: boolean } = {},
): Node {
  const id = `node-${digit.repeat(16)}` as const;
  const { state = 'ready', freeGib = 50, provisionedGib = 0, low = false } = changes;
  return {
    id,
    name: `host-${digit}`,
    agentUrl: 'http://127.0.0.1:1',
    version: '0.1.0',
    state,
    exports: 0,
    connectedExports: 0,
    lastHeartbeatAt: new Date(0),
    createdAt: new Date(0),
    pools: [
      {
        id: `pool-${digit.repeat(16)}`,
        nodeId: id,
        directory: '/pool',
        totalBytes: 100 * GIB,
        freeBytes: freeGib * GIB,
        provisionedBytes: provisionedGib * GIB,
        volumes: 0,
        ...(low && { lowSpaceSince: new Date(0) }),
      },
    ],
  };
}

const request = { sizeBytes: GIB, overcommitRatio: 2, attempt: 1 };
const codeOf = (choose: () => unknown): string => {
  try {
    choose();
  } catch (error) {
    if (error instanceof DomainError) return `${error.code} ${error.retryable}`;
    throw error;
  }
  return 'chosen';
};

describe('chooseNode', () => {
  it('takes the ready pool with the most free space', () => {
    const nodes = [
      nodeOf('1', { freeGib: 20 }),
      nodeOf('2', { freeGib: 60 }),
      nodeOf('3', { freeGib: 90, state: 'down' }),
    ];
    expect(chooseNode(nodes, request)).toEqual({ nodeId: nodes[1]?.id, poolId: nodes[1]?.pools[0]?.id });
  });

  it('turns to the next best pool at each further try', () => {
    const nodes = [nodeOf('1', { freeGib: 20 }), nodeOf('2', { freeGib: 60 })];
    const tries = [1, 2, 3].map((attempt) => chooseNode(nodes, { ...request, attempt }).nodeId);
    expect(tries).toEqual([nodes[1]?.id, nodes[0]?.id, nodes[1]?.id]);
  });

  it('takes a pool that is low on space only when no other has room, or after all others', () => {
    const nodes = [
      nodeOf('1', { freeGib: 90, low: true }),
      nodeOf('2', { freeGib: 20 }),
      nodeOf('3', { freeGib: 30 }),
    ];
    const tries = [1, 2, 3].map((attempt) => chooseNode(nodes, { ...request, attempt }).nodeId);
    expect(tries).toEqual([nodes[2]?.id, nodes[1]?.id, nodes[0]?.id]);
    nodes[1] = nodeOf('2', { provisionedGib: 200 });
    nodes[2] = nodeOf('3', { state: 'down' });
    expect(chooseNode(nodes, request).nodeId).toBe(nodes[0]?.id);
  });

  it('promises no more than the over-commit ratio allows', () => {
    const promised = [nodeOf('1', { provisionedGib: 199 })];
    expect(chooseNode(promised, request).nodeId).toBe(promised[0]?.id);
    expect(codeOf(() => chooseNode(promised, { ...request, sizeBytes: GIB + 4096 }))).toBe(
      'no-capacity true',
    );
  });

  it('gives nothing new to a pool that is nearly full', () => {
    expect(codeOf(() => chooseNode([nodeOf('1', { freeGib: 5 })], request))).toBe('no-capacity true');
  });

  it.each([[[]], [[nodeOf('1', { state: 'down' })]]])(
    'waits for a node when none is ready',
    (nodes: Node[]) => {
      expect(codeOf(() => chooseNode(nodes, request))).toBe('node-unavailable true');
    },
  );
});
