import { Controller, Get, Header, Param, Query, Res, StreamableFile } from '@nestjs/common';
import type { Response } from 'express';
import { SnapshotData } from '../snapshots/snapshot-data.js';

/** Blocks of snapshots, for whoever the control plane sends here with a ticket in the address. */
@Controller('v1/data/:ticket')
export class DataController {
  constructor(private readonly data: SnapshotData) {}

  @Get('blocks')
  blocks(
    @Param('ticket') ticket: string,
    @Query() query: { start?: string; limit?: string },
  ): Promise<object> {
    return this.data.blocks(ticket, query);
  }

  @Get('extents')
  extents(
    @Param('ticket') ticket: string,
    @Query() query: { start?: string; limit?: string },
  ): Promise<object> {
    return this.data.extents(ticket, query);
  }

  @Get('blocks/:index')
  @Header('Cache-Control', 'no-store')
  async block(
    @Param('ticket') ticket: string,
    @Param('index') index: string,
    @Query('token') token: string | undefined,
    @Res({ passthrough: true }) response: Response,
  ): Promise<StreamableFile> {
    const { data, checksum } = await this.data.block(ticket, index, token);
    response.setHeader('x-cairn-sha256', checksum);
    return new StreamableFile(data, { type: 'application/octet-stream', length: data.length });
  }
}
