import { beforeEach, describe, expect, it } from 'vitest';
import { Timers } from './timers.js';

describe('callbacks that wait for the clock', () => {
  let timers: Timers;
  let calls: string[];
  const noting = (name: string) => () => {
    calls.push(name);
  };
  beforeEach(() => {
    timers = new Timers();
    calls = [];
  });

  it('are called once, when their time has come, whatever the order in which they were set', () => {
    timers.set(noting('late'), 300);
    timers.set(noting('early'), 100);
    timers.run(99);
    expect(calls).toEqual([]);
    timers.run(100);
    expect(calls).toEqual(['early']);
    timers.run(299);
    expect(calls).toEqual(['early']);
    timers.run(1000);
    timers.run(2000);
    expect(calls).toEqual(['early', 'late']);
    expect(timers.size).toBe(0);
  });

  it('tell how long nothing is due, also past the end of the clock', () => {
    const late = 0x7fffff00;
    timers.set(noting('after the wrap'), (late + 0x200) | 0);
    expect(timers.microsLeft(late)).toBe(0x200);
    timers.run(0x7fffffff);
    expect(calls).toEqual([]);
    expect(timers.microsLeft((late + 0x300) | 0)).toBe(1);
    timers.run((late + 0x200) | 0);
    expect(calls).toEqual(['after the wrap']);
  });

  it('wait for another time when they are set again, and no more when they are deleted', () => {
    const [one, other] = [noting('one'), noting('other')];
    timers.set(one, 100);
    timers.set(other, 100);
    timers.set(one, 200);
    timers.delete(other);
    timers.run(150);
    expect(calls).toEqual([]);
    timers.run(200);
    expect(calls).toEqual(['one']);
  });

  it('may set themselves and others, and are then called in a later run', () => {
    let now = 100;
    const again = (): void => {
      calls.push('again');
      timers.set(again, now);
      timers.set(noting('other'), now + 50);
    };
    timers.set(again, now);
    timers.run(now);
    expect(calls).toEqual(['again']);
    expect(timers.microsLeft(now)).toBe(1);
    timers.delete(again);
    now = 150;
    timers.run(now);
    expect(calls).toEqual(['again', 'other']);
  });

  it('are not called when another that was due with them has deleted them, or put them off', () => {
    const callbacks: (() => void)[] = ['one', 'other'].map((name, index) => () => {
      calls.push(name);
      timers.delete(callbacks[1 - index]!);
      timers.set(third, 500);
    });
    const third = noting('third');
    for (const callback of [...callbacks, third]) timers.set(callback, 100);
    timers.run(100);
    expect(calls).toEqual(['one']);
    expect(timers.microsLeft(100)).toBe(400);
    timers.run(500);
    expect(calls).toEqual(['one', 'third']);
  });
});
