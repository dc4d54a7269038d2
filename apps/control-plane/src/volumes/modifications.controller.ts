import type { ProjectId, VolumeId } from '@cairn/domain';
import { Body, Controller, Param, Post, Req, Res, UsePipes } from '@nestjs/common';
import { ApiOperation, ApiTags } from '@nestjs/swagger';
import type { Request, Response } from 'express';
import { Caller, clientTokenOf, IdPipe } from '../http/params.js';
import { StartsOperation } from '../http/responses.js';
import { RequestPipe } from '../http/validation.js';
import { toOperationDto } from '../operations/operation.dto.js';
import { ResizeVolumeDto, RevertVolumeDto } from './modification.dto.js';
import { ModificationsService, type Modifying } from './modifications.service.js';
import { toVolumeDto, VolumeAcceptedDto } from './volume.dto.js';

/** Changes of volumes. */
@ApiTags('volumes')
@Controller('v1/volumes/:volumeId')
@UsePipes(new RequestPipe())
export class ModificationsController {
  constructor(private readonly modifications: ModificationsService) {}

  /** Starts making a volume larger. */
  @Post('resize')
  @ApiOperation({
    summary: 'Resize a volume',
    description: 'It only grows. A guest that uses it sees the new size at once.',
  })
  @StartsOperation(VolumeAcceptedDto, {
    hasBody: true,
    codes: ['volume-not-found', 'volume-busy', 'volume-wrong-state'],
  })
  async resize(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
    @Body() body: ResizeVolumeDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<VolumeAcceptedDto> {
    const { sizeBytes } = body;
    const clientToken = clientTokenOf(request, body);
    return accepted(await this.modifications.resize(project, { volumeId, sizeBytes, clientToken }), response);
  }

  /** Starts making a volume read as one of its snapshots again. */
  @Post('revert')
  @ApiOperation({
    summary: 'Revert a volume to a snapshot',
    description:
      'Detach it first. It keeps its size and its other snapshots; what was written since the snapshot is gone, so take ' +
      'another one before if you may want it back.',
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
  async revert(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
    @Body() body: RevertVolumeDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<VolumeAcceptedDto> {
    const { snapshotId } = body;
    const clientToken = clientTokenOf(request, body);
    return accepted(
      await this.modifications.revert(project, { volumeId, snapshotId, clientToken }),
      response,
    );
  }
}

function accepted({ operation, volume }: Modifying, response: Response): VolumeAcceptedDto {
  response.location(`/v1/operations/${operation.id}`);
  return { operation: toOperationDto(operation), volume: volume && toVolumeDto(volume) };
}
