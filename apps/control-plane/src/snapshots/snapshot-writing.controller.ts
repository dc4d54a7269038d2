import { SNAPSHOT_BLOCK_BYTES, type ProjectId, type SnapshotId } from '@cairn/domain';
import { Body, Controller, Get, Param, Post, Req, Res, UsePipes } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import type { Request, Response } from 'express';
import { Caller, clientTokenOf, IdPipe } from '../http/params.js';
import { NeedsApiKey, StartsOperation } from '../http/responses.js';
import { RequestPipe } from '../http/validation.js';
import { toOperationDto } from '../operations/operation.dto.js';
import { CompleteSnapshotDto, SnapshotUploadDto, StartSnapshotDto } from './snapshot-writing.dto.js';
import { SnapshotWritingService, type Writing } from './snapshot-writing.service.js';
import { SnapshotAcceptedDto, toSnapshotDto } from './snapshot.dto.js';

/** Snapshots that are written from blocks. */
@ApiTags('snapshots')
@Controller('v1/snapshots')
@UsePipes(new RequestPipe())
export class SnapshotWritingController {
  constructor(private readonly writing: SnapshotWritingService) {}

  /** Begins one. */
  @Post()
  @ApiOperation({
    summary: 'Start a snapshot that is written from blocks',
    description:
      'It is pending, and open for blocks when the operation has succeeded: ask for its upload address, put blocks, ' +
      'complete it. Deleting it cancels it.',
  })
  @StartsOperation(SnapshotAcceptedDto, {
    hasBody: true,
    codes: ['snapshot-not-found', 'snapshot-wrong-state'],
  })
  async start(
    @Caller() project: ProjectId,
    @Body() body: StartSnapshotDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SnapshotAcceptedDto> {
    const { clientToken: _given, ...wanted } = body;
    const clientToken = clientTokenOf(request, body);
    return accepted(response, await this.writing.start(project, { ...wanted, clientToken }));
  }

  /** Where blocks are put. */
  @Get(':snapshotId/upload')
  @ApiOperation({
    summary: 'Get the address at which blocks are put',
    description:
      'Of the node itself, for this snapshot only. Blocks may be put in any order, at once, and again: the last stays. ' +
      'Each is on the disk when it is answered with 201; a restart loses none.',
  })
  @ApiOkResponse({ type: SnapshotUploadDto })
  @NeedsApiKey('snapshot-not-found', 'snapshot-wrong-state', 'snapshot-busy', 'node-not-found')
  async upload(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) id: SnapshotId,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SnapshotUploadDto> {
    const { url, expiresAt } = await this.writing.uploadAddress(project, id);
    response.setHeader('Cache-Control', 'no-store');
    return { url, blockBytes: SNAPSHOT_BLOCK_BYTES, expiresAt: expiresAt.toISOString() };
  }

  /** Ends it. */
  @Post(':snapshotId/complete')
  @ApiOperation({
    summary: 'Complete a snapshot that is written from blocks',
    description:
      'It never changes again. When the number of blocks or the checksum is another, the operation fails with ' +
      '`checksum-mismatch`, and the snapshot is still open.',
  })
  @StartsOperation(SnapshotAcceptedDto, {
    hasBody: true,
    codes: ['snapshot-not-found', 'snapshot-wrong-state', 'snapshot-busy'],
  })
  async complete(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) snapshotId: SnapshotId,
    @Body() body: CompleteSnapshotDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SnapshotAcceptedDto> {
    const { changedBlocks, checksum } = body;
    const clientToken = clientTokenOf(request, body);
    const wanted = { snapshotId, changedBlocks, checksum, clientToken };
    return accepted(response, await this.writing.complete(project, wanted));
  }
}

function accepted(response: Response, { operation, snapshot }: Writing): SnapshotAcceptedDto {
  response.location(`/v1/operations/${operation.id}`);
  return { operation: toOperationDto(operation), snapshot: snapshot && toSnapshotDto(snapshot) };
}
