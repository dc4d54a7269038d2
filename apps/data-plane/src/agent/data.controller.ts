import {
  Controller,
  Get,
  Header,
  Headers,
  HttpCode,
  Param,
  Put,
  Query,
  Req,
  Res,
  StreamableFile,
} from '@nestjs/common';
import { SNAPSHOT_BLOCK_BYTES } from '@cairn/storage';
import type { Request, Response } from 'express';
import { SnapshotData } from '../snapshots/snapshot-data.js';
import { SnapshotWriting } from '../snapshots/snapshot-writing.js';
import { readBytes } from './body-bytes.js';

/** Blocks of snapshots, for whoever the control plane sends here with a ticket in the address. */
@Controller('v1/data/:ticket')
export class DataController {
  constructor(
    private readonly data: SnapshotData,
    private readonly writing: SnapshotWriting,
  ) {}

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

  @Put('blocks/:index')
  @HttpCode(201)
  async put(
    @Param('ticket') ticket: string,
    @Param('index') index: string,
    @Headers('x-cairn-sha256') checksum: string | undefined,
    @Headers('x-cairn-progress') progress: string | undefined,
    @Req() request: Request,
  ): Promise<object> {
    const read = () => readBytes(request, SNAPSHOT_BLOCK_BYTES);
    await this.writing.put(ticket, { index, checksum, progress, read });
    return {};
  }
}
