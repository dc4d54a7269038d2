import { describe, expect, it } from 'vitest';
import { parseMetrics } from './metrics-text.js';

const counter = '# HELP a_total Help of \\\\ a.\n# TYPE a_total counter\n';
const histogram = '# HELP h_seconds Help.\n# TYPE h_seconds histogram\n';
const whole = [
  'h_seconds_bucket{le="0.5"} 1',
  'h_seconds_bucket{le="+Inf"} 3',
  'h_seconds_sum 7.5',
  'h_seconds_count 3',
];

describe('the metrics of a node', () => {
  it('are read by family, with their labels', () => {
    const families = parseMetrics(
      `${counter}a_total{x="1",y="a\\"b\\\\c\\nd"} 3\na_total{x="2",y=""} 1e-7\n# HELP g Gauge.\n# TYPE g gauge\ng -2.5\n`,
    );
    expect([...families.keys()]).toEqual(['a_total', 'g']);
    expect(families.get('a_total')?.samples).toEqual([
      { name: 'a_total', labels: { x: '1', y: 'a"b\\c\nd' }, value: 3 },
      { name: 'a_total', labels: { x: '2', y: '' }, value: 1e-7 },
    ]);
    expect(families.get('g')).toMatchObject({ type: 'gauge', help: 'Gauge.', samples: [{ value: -2.5 }] });
  });

  it('have whole histograms, one for each set of labels', () => {
    const labelled = whole.map((line) => line.replace('{', '{v="b",').replace(/(sum|count) /, '$1{v="b"} '));
    const families = parseMetrics(`${histogram}${[...whole, ...labelled].join('\n')}\n`);
    expect(families.get('h_seconds')?.samples).toHaveLength(8);
    expect(families.get('h_seconds')?.samples[1]?.labels).toEqual({ le: '+Inf' });
  });

  it('may have families without samples', () => {
    expect(parseMetrics(counter).get('a_total')?.samples).toEqual([]);
  });

  it.each([
    ['an empty text', ''],
    ['a last line without an end', `${counter}a_total 1`],
    ['a sample before any family', 'a_total 1\n'],
    ['a sample of another family', `${counter}b_total 1\n`],
    ['a type without help', '# TYPE a_total counter\na_total 1\n'],
    ['a help without type', '# HELP a_total Help.\na_total 1\n'],
    ['a help at the end', `${counter}# HELP b Help.\n`],
    ['a type that is none', '# HELP a Help.\n# TYPE a summery\n'],
    ['a family twice', counter + counter],
    ['a sample twice', `${counter}a_total{x="1"} 1\na_total{x="1"} 2\n`],
    ['a label twice', `${counter}a_total{x="1",x="2"} 1\n`],
    ['a counter without _total', '# HELP a Help.\n# TYPE a counter\na 1\n'],
    ['a counter below zero', `${counter}a_total -1\n`],
    ['a value that is no number', `${counter}a_total NaN\n`],
    ['no value', `${counter}a_total\n`],
    ['two values', `${counter}a_total 1 2\n`],
    ['an open label', `${counter}a_total{x="1} 1\n`],
    ['a label without quotes', `${counter}a_total{x=1} 1\n`],
    ['a comma too many', `${counter}a_total{x="1",} 1\n`],
    ['an unknown escape', `${counter}a_total{x="\\t"} 1\n`],
    ['an empty line', `${counter}\na_total 1\n`],
    ['a histogram without buckets', `${histogram}h_seconds_sum 1\nh_seconds_count 1\n`],
    ['a histogram without a last bucket', `${histogram}${whole.toSpliced(1, 1).join('\n')}\n`],
    ['a histogram without a sum', `${histogram}${whole.toSpliced(2, 1).join('\n')}\n`],
    ['a histogram without a count', `${histogram}${whole.toSpliced(3, 1).join('\n')}\n`],
    ['a bucket that falls', `${histogram}${whole.join('\n').replace('0.5"} 1', '0.5"} 4')}\n`],
    ['bounds that fall', `${histogram}h_seconds_bucket{le="0.7"} 0\n${whole.join('\n')}\n`],
    ['a bucket without a bound', `${histogram}h_seconds_bucket 0\n${whole.join('\n')}\n`],
    ['a plain sample of a histogram', `${histogram}h_seconds 1\n`],
  ])('are refused with %s', (_, text) => {
    expect(() => parseMetrics(text)).toThrow('Prometheus text format');
  });
});
