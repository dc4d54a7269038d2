import { ApiPropertyOptional } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { decodePageToken } from './page-token.js';
import { Optional, type Check } from './validation.js';

export const PAGE_LIMIT_MAX = 1000;
export const PAGE_LIMIT_DEFAULT = 100;

const limit: Check = (value) =>
  typeof value === 'string' &&
  /^\d{1,4}$/.test(value) &&
  Number(value) >= 1 &&
  Number(value) <= PAGE_LIMIT_MAX
    ? undefined
    : `must be a whole number from 1 to ${PAGE_LIMIT_MAX}`;

const pageToken: Check = (value) =>
  typeof value === 'string' && decodePageToken(value) !== undefined
    ? undefined
    : 'must be the nextPageToken of an earlier answer';

/** The query of a list that comes a page at a time. */
export class PageQuery {
  @ApiPropertyOptional({ type: Number, default: PAGE_LIMIT_DEFAULT, minimum: 1, maximum: PAGE_LIMIT_MAX })
  @Optional(limit)
  limit?: string;

  @ApiPropertyOptional({ description: 'The nextPageToken of the page before.' })
  @Optional(pageToken)
  pageToken?: string;
}

/** Which page a query asks for. */
export function pageOf({ limit, pageToken }: PageQuery): { limit: number; after?: number } {
  return {
    limit: Number(limit ?? PAGE_LIMIT_DEFAULT),
    after: pageToken === undefined ? undefined : decodePageToken(pageToken),
  };
}

/** A query parameter of one or more of these words, separated by commas. */
export function CommaSeparated(words: readonly string[]): PropertyDecorator {
  const check: Check = (value) =>
    Array.isArray(value) && value.length > 0 && value.every((each) => words.some((word) => word === each))
      ? undefined
      : `must be one or more, separated by commas, of ${words.join(', ')}`;
  const split = Transform(({ value }: { value: unknown }) =>
    typeof value === 'string' ? value.split(',') : value,
  );
  return (target, property) => {
    split(target, property);
    Optional(check)(target, property);
  };
}
