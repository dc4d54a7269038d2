import type { ProjectId, SnapshotId, VolumeId } from '@cairn/domain';
import { Body, Controller, Delete, Get, Param, Post, Query, Req, Res, UsePipes } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import type { Request, Response } from 'express';
import { encodePageToken } from '../http/page-token.js';
import { pageOf } from '../http/paging.js';
import { Caller, clientTokenOf, IdPipe, TokenQuery } from '../http/params.js';
import { NeedsApiKey, StartsOperation } from '../http/responses.js';
import { RequestPipe } from '../http/validation.js';
import { toOperationDto } from '../operations/operation.dto.js';
import {
  CreateSnapshotDto,
  CreateSnapshotGroupDto,
  ListSnapshotsQuery,
  SnapshotAcceptedDto,
  SnapshotDto,
  SnapshotGroupAcceptedDto,
  SnapshotListDto,
  toSnapshotDto,
} from './snapshot.dto.js';
import { SnapshotsService } from './snapshots.service.js';

/** Snapshots. */
@ApiTags('snapshots')
@Controller('v1')
@UsePipes(new RequestPipe())
export class SnapshotsController {
  constructor(private readonly snapshots: SnapshotsService) {}

  /** Starts a snapshot of a volume. */
  @Post('volumes/:volumeId/snapshots')
  @ApiOperation({
    summary: 'Snapshot a volume',
    description: 'Attached or not, of any size: it takes a moment, and space only as the volume changes.',
  })
  @StartsOperation(SnapshotAcceptedDto, {
    hasBody: true,
    codes: ['volume-not-found', 'volume-busy', 'volume-wrong-state'],
  })
  async create(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
    @Body() body: CreateSnapshotDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SnapshotAcceptedDto> {
    const { name, description, tags } = body;
    const clientToken = clientTokenOf(request, body);
    const wanted = { volumeIds: [volumeId], isGroup: false, name, description, tags, clientToken };
    const { operation, snapshots } = await this.snapshots.create(project, wanted);
    response.location(`/v1/operations/${operation.id}`);
    const [snapshot] = snapshots;
    return { operation: toOperationDto(operation), snapshot: snapshot && toSnapshotDto(snapshot) };
  }

  /** Starts snapshots of several volumes at one point in time. */
  @Post('snapshots/group')
  @ApiOperation({
    summary: 'Snapshot volumes at one point in time',
    description: 'All of them or none. The volumes are on one node, attached or not.',
  })
  @StartsOperation(SnapshotGroupAcceptedDto, {
    hasBody: true,
    codes: ['volume-not-found', 'volume-busy', 'volume-wrong-state'],
  })
  async createGroup(
    @Caller() project: ProjectId,
    @Body() body: CreateSnapshotGroupDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SnapshotGroupAcceptedDto> {
    const { volumeIds, name, description, tags } = body;
    const clientToken = clientTokenOf(request, body);
    const wanted = { volumeIds, isGroup: true, name, description, tags, clientToken };
    const { operation, snapshots } = await this.snapshots.create(project, wanted);
    response.location(`/v1/operations/${operation.id}`);
    return { operation: toOperationDto(operation), snapshots: snapshots.map(toSnapshotDto) };
  }

  /** One page of snapshots. */
  @Get('snapshots')
  @ApiOperation({ summary: 'List snapshots', description: 'Newest first, a page at a time.' })
  @ApiOkResponse({ type: SnapshotListDto })
  @NeedsApiKey('invalid-request')
  async list(@Caller() project: ProjectId, @Query() query: ListSnapshotsQuery): Promise<SnapshotListDto> {
    const { volumeId, groupId, state: states } = query;
    const page = await this.snapshots.list(project, { ...pageOf(query), volumeId, groupId, states });
    return {
      snapshots: page.snapshots.map(toSnapshotDto),
      nextPageToken: page.next === undefined ? undefined : encodePageToken(page.next),
    };
  }

  /** One snapshot. */
  @Get('snapshots/:snapshotId')
  @ApiOperation({ summary: 'Get a snapshot', description: 'A deleted snapshot can be read for one hour.' })
  @ApiOkResponse({ type: SnapshotDto })
  @NeedsApiKey('snapshot-not-found')
  async get(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) id: SnapshotId,
  ): Promise<SnapshotDto> {
    return toSnapshotDto(await this.snapshots.get(project, id));
  }

  /** Starts the deletion of a snapshot. */
  @Delete('snapshots/:snapshotId')
  @ApiOperation({
    summary: 'Delete a snapshot',
    description:
      'In any order: its volume, later snapshots and volumes made of it stay as they are, and the space that only it ' +
      'took is given back in the background. One that is written from blocks is cancelled. Repeating the request is ' +
      'harmless.',
  })
  @ApiOkResponse({ type: SnapshotAcceptedDto, description: 'It is deleted already.' })
  @StartsOperation(SnapshotAcceptedDto, {
    hasBody: false,
    codes: ['snapshot-not-found', 'snapshot-in-use', 'snapshot-busy', 'snapshot-wrong-state'],
  })
  async delete(
    @Caller() project: ProjectId,
    @Param('snapshotId', new IdPipe('snap')) id: SnapshotId,
    @Query() query: TokenQuery,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<SnapshotAcceptedDto> {
    const { operation, snapshot } = await this.snapshots.delete(project, id, clientTokenOf(request, query));
    response.location(`/v1/operations/${operation.id}`);
    if (snapshot?.state === 'deleted') response.status(200);
    return { operation: toOperationDto(operation), snapshot: snapshot && toSnapshotDto(snapshot) };
  }
}
