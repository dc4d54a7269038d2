import { NO_LIMITS } from '@cairn/block-export';
import { describe, expect, it } from 'vitest';
import { parseControlRequest } from './control-request.js';

describe('a request on the control socket', () => {
  const parse = (value: unknown) => parseControlRequest(JSON.stringify(value));

  it('asks for the status', () => {
    expect(parse({ verb: 'status' })).toEqual({ verb: 'status' });
  });

  it('asks for another size, of one file or of the only one', () => {
    expect(parse({ verb: 'resize', sizeBytes: 4096 })).toEqual({ verb: 'resize', sizeBytes: 4096 });
    const named = { verb: 'resize', file: '/a', sizeBytes: 2 ** 40 };
    expect(parse(named)).toEqual(named);
  });

  it('asks for limits; what is not said is not limited', () => {
    expect(parse({ verb: 'limit', file: '/a', limits: { iops: 10 } })).toEqual({
      verb: 'limit',
      file: '/a',
      limits: { ...NO_LIMITS, iops: 10 },
    });
    expect(parse({ verb: 'limit', limits: {} })).toEqual({ verb: 'limit', limits: NO_LIMITS });
  });

  it.each([
    ['no JSON', 'resize'],
    ['an empty line', ''],
    ['half an object', '{"verb":'],
  ])('is refused when it is %s', (_, line) => {
    expect(() => parseControlRequest(line)).toThrow(SyntaxError);
  });

  it.each([null, 1, 'status', ['status'], true])('is refused when it is no object: %j', (value) => {
    expect(() => parse(value)).toThrow('a request is a JSON object');
  });

  it.each([
    [{}, 'unknown verb undefined'],
    [{ verb: 'stop' }, 'unknown verb "stop"'],
    [{ verb: 'toString' }, 'unknown verb "toString"'],
    [{ verb: 'status', all: true }, "unknown field 'all'"],
    [{ verb: 'resize', file: 3, sizeBytes: 512 }, 'file must be a string'],
    [{ verb: 'resize' }, 'sizeBytes must be a whole number'],
    [{ verb: 'resize', sizeBytes: '4096' }, 'sizeBytes must be a whole number'],
    [{ verb: 'resize', sizeBytes: -512 }, 'sizeBytes must be a whole number'],
    [{ verb: 'resize', sizeBytes: 2 ** 53 }, 'sizeBytes must be a whole number'],
    [{ verb: 'resize', sizeBytes: 0 }, 'a multiple of 512 above 0'],
    [{ verb: 'resize', sizeBytes: 513 }, 'a multiple of 512 above 0'],
    [{ verb: 'resize', sizeBytes: 512, force: 1 }, "unknown field 'force'"],
    [{ verb: 'limit' }, 'limits is a JSON object'],
    [{ verb: 'limit', limits: [] }, 'limits is a JSON object'],
    [{ verb: 'limit', limits: { iops: 1.5 } }, 'iops must be a whole number'],
    [{ verb: 'limit', limits: { iops: null } }, 'iops must be a whole number'],
    [{ verb: 'limit', limits: { speed: 1 } }, "unknown field 'speed'"],
    [{ verb: 'limit', limits: {}, soon: 1 }, "unknown field 'soon'"],
  ])('is refused with what is wrong: %j', (value, why) => {
    expect(() => parse(value)).toThrow(why);
  });
});
