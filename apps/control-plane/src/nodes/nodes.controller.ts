import { formatBytes, type NodeId } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { Body, Controller, Get, HttpCode, Logger, Param, Put, UseGuards } from '@nestjs/common';
import { ApiBearerAuth, ApiNoContentResponse, ApiOkResponse, ApiOperation, ApiTags } from '@nestjs/swagger';
import { JoinGuard } from '../http/join.guard.js';
import { IdPipe } from '../http/params.js';
import { NeedsApiKey, Problems } from '../http/responses.js';
import { RequestPipe } from '../http/validation.js';
import { HeartbeatDto, NodeListDto, toHeartbeat, toNodeDto } from './node.dto.js';

/** Nodes and their heartbeats. */
@ApiTags('nodes')
@Controller('v1/nodes')
export class NodesController {
  private readonly logger = new Logger(NodesController.name);

  constructor(private readonly unitOfWork: UnitOfWork) {}

  /** Every node; nodes belong to the operator, and every project may see them. */
  @Get()
  @ApiOperation({
    summary: 'List nodes',
    description: 'A node is down when it has sent no heartbeat for 15 seconds.',
  })
  @ApiOkResponse({ type: NodeListDto })
  @NeedsApiKey()
  async list(): Promise<NodeListDto> {
    return { nodes: (await this.unitOfWork.read(({ nodes }) => nodes.list())).map(toNodeDto) };
  }

  /** Takes in a heartbeat. Fields it does not know come from a newer node and are ignored. */
  @Put(':nodeId/heartbeat')
  @HttpCode(204)
  @UseGuards(JoinGuard)
  @ApiOperation({
    summary: 'Report a node',
    description: 'For nodes: sent every two seconds with the join token.',
  })
  @ApiBearerAuth('joinToken')
  @ApiNoContentResponse({ description: 'Noted.' })
  @Problems(
    'malformed-request',
    'invalid-request',
    'not-authenticated',
    'node-not-found',
    'body-too-large',
    'unsupported-media-type',
    'internal',
    'dependency-unavailable',
  )
  async heartbeat(
    @Param('nodeId', new IdPipe('node')) id: NodeId,
    @Body(new RequestPipe({ unknownFields: 'ignore' })) body: HeartbeatDto,
  ): Promise<void> {
    const changes = await this.unitOfWork.run(({ nodes }) => nodes.heartbeat(toHeartbeat(id, body)));
    for (const { id: poolId, became, freeBytes, totalBytes } of changes) {
      const space = `${poolId} of ${body.name} (${id}) has ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`;
      if (became === 'low')
        this.logger.warn(`${space}: it is low on space, and takes no new volume while another pool can`);
      else this.logger.log(`${space}, enough again`);
    }
  }
}
