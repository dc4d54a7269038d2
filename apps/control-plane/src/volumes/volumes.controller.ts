import type { ProjectId, VolumeId } from '@cairn/domain';
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
  CreateVolumeDto,
  ListVolumesQuery,
  toVolumeDto,
  VolumeAcceptedDto,
  VolumeDto,
  VolumeListDto,
} from './volume.dto.js';
import { VolumesService } from './volumes.service.js';

/** Volumes. */
@ApiTags('volumes')
@Controller('v1/volumes')
@UsePipes(new RequestPipe())
export class VolumesController {
  constructor(private readonly volumes: VolumesService) {}

  /** Starts the creation of a volume. */
  @Post()
  @ApiOperation({
    summary: 'Create a volume',
    description:
      'It is thin: it takes space as it is written. One that begins as a snapshot or as another volume is on the same ' +
      'node, is there at once whatever the size, and stays when its source is deleted.',
  })
  @StartsOperation(VolumeAcceptedDto, {
    hasBody: true,
    codes: [
      'volume-not-found',
      'snapshot-not-found',
      'volume-busy',
      'volume-wrong-state',
      'snapshot-wrong-state',
    ],
  })
  async create(
    @Caller() project: ProjectId,
    @Body() body: CreateVolumeDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<VolumeAcceptedDto> {
    const { sizeBytes, name, snapshotId, sourceVolumeId } = body;
    const clientToken = clientTokenOf(request, body);
    const { operation, volume } = await this.volumes.create(project, {
      sizeBytes,
      name,
      snapshotId,
      sourceVolumeId,
      clientToken,
    });
    response.location(`/v1/operations/${operation.id}`);
    return { operation: toOperationDto(operation), volume: volume && toVolumeDto(volume) };
  }

  /** One page of volumes. */
  @Get()
  @ApiOperation({ summary: 'List volumes', description: 'Newest first, a page at a time.' })
  @ApiOkResponse({ type: VolumeListDto })
  @NeedsApiKey('invalid-request')
  async list(@Caller() project: ProjectId, @Query() query: ListVolumesQuery): Promise<VolumeListDto> {
    const { volumes, attachments, next } = await this.volumes.list(project, {
      ...pageOf(query),
      states: query.state,
    });
    return {
      volumes: volumes.map((volume) => toVolumeDto(volume, attachments)),
      nextPageToken: next === undefined ? undefined : encodePageToken(next),
    };
  }

  /** One volume. */
  @Get(':volumeId')
  @ApiOperation({ summary: 'Get a volume', description: 'A deleted volume can be read for one hour.' })
  @ApiOkResponse({ type: VolumeDto })
  @NeedsApiKey('volume-not-found')
  async get(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) id: VolumeId,
  ): Promise<VolumeDto> {
    const { volume, attachments } = await this.volumes.get(project, id);
    return toVolumeDto(volume, attachments);
  }

  /** Starts the deletion of a volume. */
  @Delete(':volumeId')
  @ApiOperation({
    summary: 'Delete a volume',
    description: 'Detach it first. Repeating the request is harmless.',
  })
  @ApiOkResponse({ type: VolumeAcceptedDto, description: 'It is deleted already.' })
  @StartsOperation(VolumeAcceptedDto, {
    hasBody: false,
    codes: ['volume-not-found', 'volume-in-use', 'volume-busy', 'volume-wrong-state'],
  })
  async delete(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) id: VolumeId,
    @Query() query: TokenQuery,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<VolumeAcceptedDto> {
    const { operation, volume } = await this.volumes.delete(project, id, clientTokenOf(request, query));
    response.location(`/v1/operations/${operation.id}`);
    if (volume?.state === 'deleted') response.status(200);
    return { operation: toOperationDto(operation), volume: volume && toVolumeDto(volume) };
  }
}
