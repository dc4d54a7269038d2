import {
  DATA_TICKET_MS,
  DataTickets,
  isId,
  requireCompleted,
  requirePlaced,
  type ProjectId,
  type SnapshotId,
} from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { Controller, Get, Param, Query, Res, UsePipes } from '@nestjs/common';
import { ApiOperation, ApiPropertyOptional, ApiResponse, ApiTags } from '@nestjs/swagger';
import type { Response } from 'express';
import { Caller, IdPipe } from '../http/params.js';
import { NeedsApiKey } from '../http/responses.js';
import { Optional, RequestPipe, Required, text, wholeNumber } from '../http/validation.js';

const digits = (value: unknown) =>
  typeof value === 'string' && /^\d{1,15}$/.test(value)
    ? wholeNumber(0, Number.MAX_SAFE_INTEGER)(Number(value))
    : 'must be a whole number';

/** The query of a list of blocks or extents. */
export class SnapshotDataQuery {
  @ApiPropertyOptional({ description: 'Only what changed since this earlier snapshot of the same line.' })
  @Optional((value) => (isId('snap', value) ? undefined : 'must be a snapshot id'))
  since?: SnapshotId;

  @ApiPropertyOptional({ description: 'The nextStart of the page before.' })
  @Optional(digits)
  start?: string;

  @ApiPropertyOptional({ description: 'How many at most; 10000 is the most.' })
  @Optional(digits)
  limit?: string;
}

/** The query of a block. */
export class SnapshotBlockQuery {
  @ApiPropertyOptional({ description: 'As the list says.', required: true })
  @Required(text(1, 64))
  token!: string;
}

const toNode = ApiResponse({
  status: 307,
  description: 'The node has it, at an address that is good for five minutes. Follow it without the API key.',
  headers: { Location: { schema: { type: 'string' } } },
});

/** What snapshots hold: every answer sends the caller to the node, with a ticket. */
@ApiTags('snapshots')
@Controller('v1/snapshots/:snapshotId')
@UsePipes(new RequestPipe())
export class SnapshotDataController {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly tickets: DataTickets,
  ) {}

  /** Blocks of 512 KiB. */
  @Get('blocks')
  @ApiOperation({
    summary: 'List the blocks of a snapshot that have data, or changed',
    description: 'Blocks of 512 KiB: {blockBytes, sizeBytes, blocks: [{index, token}], nextStart}.',
  })
  @toNode
  @NeedsApiKey('invalid-request', 'snapshot-not-found', 'snapshot-wrong-state', 'node-not-found')
  async blocks(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) id: SnapshotId,
    @Query() { since, ...page }: SnapshotDataQuery,
    @Res() response: Response,
  ): Promise<void> {
    response.redirect(307, await this.addressOf(project, id, since, 'blocks', { ...page }));
  }

  /** Ranges of bytes. */
  @Get('extents')
  @ApiOperation({
    summary: 'List the ranges of a snapshot that have data, or changed',
    description: 'In bytes: {sizeBytes, extents: [{offsetBytes, lengthBytes, zeroes}], nextStart}.',
  })
  @toNode
  @NeedsApiKey('invalid-request', 'snapshot-not-found', 'snapshot-wrong-state', 'node-not-found')
  async extents(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) id: SnapshotId,
    @Query() { since, ...page }: SnapshotDataQuery,
    @Res() response: Response,
  ): Promise<void> {
    response.redirect(307, await this.addressOf(project, id, since, 'extents', { ...page }));
  }

  /** The bytes of a block. */
  @Get('blocks/:index')
  @ApiOperation({
    summary: 'Read a block of a snapshot',
    description:
      'Its bytes; the header x-cairn-sha256 has their SHA-256 in Base64. The last block may be shorter.',
  })
  @toNode
  @NeedsApiKey('invalid-request', 'snapshot-not-found', 'snapshot-wrong-state', 'node-not-found')
  async block(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) id: SnapshotId,
    @Param('index') index: string,
    @Query() { token }: SnapshotBlockQuery,
    @Res() response: Response,
  ): Promise<void> {
    const path = `blocks/${encodeURIComponent(index)}`;
    response.redirect(307, await this.addressOf(project, id, undefined, path, { token }));
  }

  private async addressOf(
    project: ProjectId,
    snapshotId: SnapshotId,
    sinceSnapshotId: SnapshotId | undefined,
    path: string,
    query: Record<string, string | undefined>,
  ): Promise<string> {
    const { agentUrl } = await this.unitOfWork.read(async ({ nodes, snapshots }) => {
      const snapshot = await snapshots.get(project, snapshotId);
      requireCompleted(snapshot);
      if (sinceSnapshotId !== undefined) requireCompleted(await snapshots.get(project, sinceSnapshotId));
      return nodes.get(requirePlaced(snapshot).nodeId);
    });
    const expiresAt = Date.now() + DATA_TICKET_MS;
    const ticket = this.tickets.seal({ access: 'read', snapshotId, sinceSnapshotId, expiresAt });
    const url = new URL(`/v1/data/${ticket}/${path}`, agentUrl);
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) url.searchParams.set(name, value);
    return url.href;
  }
}
