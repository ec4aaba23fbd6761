#!/usr/bin/env node
/** @file The executable: hands the arguments to the command line and sets the exit code; nothing else. */
import { main } from '../src/commands/cli.ts'

process.exitCode = await main(process.argv.slice(2))
