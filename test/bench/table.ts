import { loadTitle, MEDIUM_TITLES } from './cells.js';
import type { Figures } from './loads.js';
import type { CellResult } from './matrix.js';

/** Figures of all cells as Markdown, one table for each medium, and ratios of the first column to the second. */
export const tablesOf = (results: readonly CellResult[], columns: readonly string[]): string => {
  const media = [...new Set(results.map(({ cell }) => cell.medium))];
  return media
    .map((medium) => {
      const rows = results.filter(({ cell }) => cell.medium === medium);
      const shown = columns.filter((name) => rows.some(({ figures }) => figures.has(name)));
      return `### ${MEDIUM_TITLES[medium]}\n\n${tableOf(rows, shown)}`;
    })
    .join('\n');
};

const tableOf = (rows: readonly CellResult[], columns: readonly string[]): string => {
  const [ours, theirs] = columns;
  const ratios = theirs === undefined ? [] : [`${ours} : ${theirs} (IOPS, CPU, p50)`];
  const lines = rows.map(({ cell, figures }) => [
    loadTitle(cell.load),
    ...columns.map((name) => figuresText(figures.get(name))),
    ...(theirs === undefined ? [] : [ratioText(figures.get(ours!), figures.get(theirs))]),
  ]);
  return markdown([['load', ...columns, ...ratios], ...lines]);
};

/** Rows as a Markdown table; the first is its head, and all columns but the first are numbers. */
export const markdown = (rows: readonly (readonly string[])[]): string => {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  const [head = [], ...body] = rows;
  const rule = head.map((_, index) => (index === 0 ? '---' : '---:'));
  return [head, rule, ...body].map(line).join('');
};

const figuresText = (figures: Figures | undefined): string => {
  if (!figures) return '–';
  const { iops, cpuMicrosPerIo, p50Micros, p99Micros } = figures;
  return [`${digits(iops / 1000)} k`, digits(cpuMicrosPerIo), digits(p50Micros), digits(p99Micros)].join(
    ' / ',
  );
};

const ratioText = (ours: Figures | undefined, theirs: Figures | undefined): string => {
  if (!ours || !theirs) return '–';
  const ratio = (key: keyof Figures): string => `${(ours[key] / theirs[key]).toFixed(2)} ×`;
  return `**${ratio('iops')}**, ${ratio('cpuMicrosPerIo')}, ${ratio('p50Micros')}`;
};

/** Three digits, which is more than a run is good for. */
const digits = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
