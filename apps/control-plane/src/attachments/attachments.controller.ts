import type { AttachmentId, ProjectId, VolumeId } from '@cairn/domain';
import { Body, Controller, Delete, Get, Param, Post, Query, Req, Res, UsePipes } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import type { Request, Response } from 'express';
import { Caller, clientTokenOf, IdPipe } from '../http/params.js';
import { NeedsApiKey, StartsOperation } from '../http/responses.js';
import { RequestPipe } from '../http/validation.js';
import { toOperationDto } from '../operations/operation.dto.js';
import {
  AttachAcceptedDto,
  AttachmentDto,
  AttachmentListDto,
  AttachVolumeDto,
  DetachAcceptedDto,
  DetachQuery,
  toAttachmentDto,
} from './attachment.dto.js';
import { AttachmentsService } from './attachments.service.js';

/** Giving volumes to guests. */
@ApiTags('attachments')
@Controller('v1/volumes/:volumeId/attachments')
@UsePipes(new RequestPipe())
export class AttachmentsController {
  constructor(private readonly attachments: AttachmentsService) {}

  /** Starts an attach. */
  @Post()
  @ApiOperation({
    summary: 'Attach a volume',
    description:
      'The attachment has a connection once its state is attached; give that to the virtual machine.',
  })
  @StartsOperation(AttachAcceptedDto, {
    hasBody: true,
    codes: ['volume-not-found', 'volume-in-use', 'volume-busy', 'volume-wrong-state'],
  })
  async attach(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
    @Body() body: AttachVolumeDto,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<AttachAcceptedDto> {
    const { instanceId, readOnly, numQueues } = body;
    const clientToken = clientTokenOf(request, body);
    const { operation, attachment } = await this.attachments.attach(project, {
      volumeId,
      instanceId,
      readOnly,
      numQueues,
      clientToken,
    });
    response.location(`/v1/operations/${operation.id}`);
    return { operation: toOperationDto(operation), attachment: attachment && toAttachmentDto(attachment) };
  }

  /** The attachments the volume has had. */
  @Get()
  @ApiOperation({
    summary: "List a volume's attachments",
    description: 'Newest first, ended ones included, 100 at most.',
  })
  @ApiOkResponse({ type: AttachmentListDto })
  @NeedsApiKey('volume-not-found')
  async list(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
  ): Promise<AttachmentListDto> {
    return { attachments: (await this.attachments.list(project, volumeId)).map(toAttachmentDto) };
  }

  /** One attachment. */
  @Get(':attachmentId')
  @ApiOperation({ summary: 'Get an attachment' })
  @ApiOkResponse({ type: AttachmentDto })
  @NeedsApiKey('volume-not-found', 'attachment-not-found')
  async get(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
    @Param('attachmentId', new IdPipe('att')) attachmentId: AttachmentId,
  ): Promise<AttachmentDto> {
    return toAttachmentDto(await this.attachments.get(project, volumeId, attachmentId));
  }

  /** Starts a detach. */
  @Delete(':attachmentId')
  @ApiOperation({
    summary: 'Detach a volume',
    description:
      'Unplug the disk from the guest first. While the guest still uses it the attachment is busy and the detach is ' +
      'retried until its deadline, after which the attachment is attached again. Repeating the request is harmless.',
  })
  @ApiOkResponse({ type: DetachAcceptedDto, description: 'It has ended already.' })
  @StartsOperation(DetachAcceptedDto, {
    hasBody: false,
    codes: ['volume-not-found', 'attachment-not-found', 'attachment-wrong-state'],
  })
  async detach(
    @Caller() project: ProjectId,
    @Param('volumeId', new IdPipe('vol')) volumeId: VolumeId,
    @Param('attachmentId', new IdPipe('att')) attachmentId: AttachmentId,
    @Query() query: DetachQuery,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<DetachAcceptedDto> {
    const clientToken = clientTokenOf(request, query);
    const force = query.force === 'true';
    const { operation, attachment } = await this.attachments.detach(project, {
      volumeId,
      attachmentId,
      force,
      clientToken,
    });
    if (operation) response.location(`/v1/operations/${operation.id}`);
    if (attachment?.endedAt) response.status(200);
    return {
      operation: operation && toOperationDto(operation),
      attachment: attachment && toAttachmentDto(attachment),
    };
  }
}
