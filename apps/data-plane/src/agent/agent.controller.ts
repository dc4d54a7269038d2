import { Body, Controller, Delete, Get, HttpCode, Param, Put, Query, UseGuards } from '@nestjs/common';
import {
  parseDeleteExport,
  parsePutExport,
  parsePutExportLimits,
  parsePutRevert,
  parsePutSize,
  parsePutVolume,
  parseVolumeId,
  type AgentExport,
  type AgentNode,
  type AgentUsage,
  type AgentVolume,
} from '@cairn/agent';
import { ExportRegistry } from '../exports/export.registry.js';
import { NodeReport } from '../node/node.report.js';
import { Coalescing } from '../snapshots/coalescing.js';
import { UsageMeter } from '../snapshots/usage-meter.js';
import { TokenGuard } from './token.guard.js';

/** The verbs of the node. All are idempotent; those of an export are fenced by its generation. */
@Controller('v1')
@UseGuards(TokenGuard)
export class AgentController {
  constructor(
    private readonly registry: ExportRegistry,
    private readonly report: NodeReport,
    private readonly coalescing: Coalescing,
    private readonly usage: UsageMeter,
  ) {}

  @Get('node')
  getNode(): Promise<AgentNode> {
    return this.report.describe();
  }

  @Get('usage')
  getUsage(): AgentUsage {
    return this.usage.latest;
  }

  @Get('volumes')
  async listVolumes(): Promise<{ volumes: AgentVolume[] }> {
    return { volumes: await this.registry.listVolumes() };
  }

  @Get('volumes/:id')
  async getVolume(@Param('id') id: string): Promise<AgentVolume> {
    return this.registry.getVolume(parseVolumeId(id));
  }

  @Put('volumes/:id')
  async putVolume(@Param('id') id: string, @Body() body: unknown): Promise<AgentVolume> {
    const volume = await this.registry.putVolume(parseVolumeId(id), parsePutVolume(body));
    // A clone leaves a layer that may be folded.
    this.coalescing.start();
    return volume;
  }

  @Put('volumes/:id/size')
  async putSize(@Param('id') id: string, @Body() body: unknown): Promise<AgentVolume> {
    return this.registry.putSize(parseVolumeId(id), parsePutSize(body));
  }

  @Put('volumes/:id/revert')
  async putRevert(@Param('id') id: string, @Body() body: unknown): Promise<AgentVolume> {
    const volume = await this.registry.putRevert(parseVolumeId(id), parsePutRevert(body));
    this.coalescing.start();
    return volume;
  }

  @Delete('volumes/:id')
  @HttpCode(200)
  async deleteVolume(@Param('id') id: string): Promise<object> {
    await this.registry.deleteVolume(parseVolumeId(id));
    this.coalescing.start();
    return {};
  }

  @Put('volumes/:id/export')
  async putExport(@Param('id') id: string, @Body() body: unknown): Promise<AgentExport> {
    return this.registry.putExport(parseVolumeId(id), parsePutExport(body));
  }

  @Put('volumes/:id/export/limits')
  async putExportLimits(@Param('id') id: string, @Body() body: unknown): Promise<AgentExport> {
    return this.registry.putExportLimits(parseVolumeId(id), parsePutExportLimits(body));
  }

  @Delete('volumes/:id/export')
  @HttpCode(200)
  async deleteExport(@Param('id') id: string, @Query() query: unknown): Promise<object> {
    await this.registry.deleteExport(parseVolumeId(id), parseDeleteExport(query));
    return {};
  }

  @Get('exports')
  async listExports(): Promise<{ exports: AgentExport[] }> {
    return { exports: await this.registry.listExports() };
  }
}
