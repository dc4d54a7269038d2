import { describe, expect, it } from 'vitest';
import { blockEnd, BlockOrder, blockStart } from './block-order.js';

/** An order, what began in it, and the writes of one step that are said to be under way. */
const orderOf = () => {
  const begun: number[] = [];
  const written: [number, number][] = [];
  const order = new BlockOrder(
    (start, end) => written.some(([from, to]) => from < end && start < to),
    (slot) => void begun.push(slot),
  );
  return { order, begun, written };
};

describe('the order of changes that take steps', () => {
  it('lets changes of different blocks begin at once', () => {
    const { order, begun } = orderOf();
    order.enter(1, 0, 4096);
    order.enter(2, 4096, 8192);
    expect(begun).toEqual([1, 2]);
    expect(order.meets(8192, 12_288)).toBe(false);
    expect(order.meets(0, 1)).toBe(true);
  });

  it('lets those that meet begin one after the other, in the order in which they came', () => {
    const { order, begun } = orderOf();
    order.enter(1, 0, 8192);
    order.enter(2, 4096, 12_288);
    order.enter(3, 8192, 16_384);
    expect(begun).toEqual([1]);
    order.leave(1, 0, 0);
    expect(begun).toEqual([1, 2]);
    order.leave(2, 0, 0);
    expect(begun).toEqual([1, 2, 3]);
    order.leave(3, 0, 0);
    expect(order.busy).toBe(false);
  });

  it('waits for a write of one step that is under way there, and for no other', () => {
    const { order, begun, written } = orderOf();
    written.push([0, 4096]);
    order.enter(1, 0, 4096);
    order.enter(2, 4096, 8192);
    expect(begun).toEqual([2]);
    written.pop();
    order.leave(9, 8192, 12_288);
    expect(begun).toEqual([2]);
    order.leave(9, 0, 4096);
    expect(begun).toEqual([2, 1]);
  });

  it('bears a change that ends while it begins', () => {
    const begun: number[] = [];
    const order: BlockOrder = new BlockOrder(
      () => false,
      (slot) => {
        begun.push(slot);
        order.leave(slot, 0, 0);
      },
    );
    order.enter(1, 0, 4096);
    order.enter(2, 0, 4096);
    expect(begun).toEqual([1, 2]);
    expect(order.busy).toBe(false);
  });

  it('counts blocks whole', () => {
    expect([blockStart(4097), blockEnd(4097), blockStart(4096), blockEnd(4096)]).toEqual([
      4096, 8192, 4096, 4096,
    ]);
  });
});
