import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest'
import { main } from '../../src/commands/cli.ts'
import { ANALYZE_DEFAULTS, EVAL_DEFAULTS, QUANTIZE_DEFAULTS, SENSITIVITIES } from '../../src/config.ts'

const ECHO = new URL('./echoWorker.mjs', import.meta.url)
const FOLDER = mkdtempSync(join(tmpdir(), 'qtool-flags-'))
afterAll(() => rmSync(FOLDER, { recursive: true }))
afterEach(() => vi.restoreAllMocks())

/** Run in this process and collect what was printed. */
async function run(...argv: string[]) {
  const out: string[] = []
  const err: string[] = []
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => out.push(String(text)) > 0)
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => err.push(String(text)) > 0)
  const code = await main(argv, ECHO)
  vi.restoreAllMocks()
  return { code, stdout: out.join(''), stderr: err.join('') }
}

/** What the arguments were understood to mean. */
async function understood(...argv: string[]) {
  const { code, stdout, stderr } = await run(...argv, '--json')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout).task
}

function configFile(content: unknown): string {
  const path = join(FOLDER, 'qtool.json')
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

describe('flags of quantize', () => {
  it('mean the defaults when they are absent', async () => {
    const task = await understood('quantize', 'm.onnx', '-o', 'o.onnx')
    expect(task).toEqual({ operation: 'quantize', model: 'm.onnx', output: 'o.onnx', config: QUANTIZE_DEFAULTS })
  })

  it('reach the configuration, every one of them', async () => {
    const { config } = await understood(
      ...['quantize', 'm.onnx', '--output', 'o.onnx', '--bits', '5', '--group-size', 'channel', '--method', 'rtn'],
      ...['--asymmetric', '--layer', '*/attn/*=8', '--layer', '/a=b$/=skip', '--format', 'standard'],
      ...['--accuracy-level', '0', '--external-data', 'never', '--dry-run', '--no-verify', '--strict', '--force'],
      ...['--threads', '3', '--seed', '9'],
    )
    expect(config).toEqual({
      ...QUANTIZE_DEFAULTS,
      bits: 5,
      groupSize: 'channel',
      method: 'rtn',
      symmetric: 'no',
      layers: [
        { pattern: '*/attn/*', bits: 8 },
        { pattern: '/a=b$/', bits: 'skip' },
      ],
      format: 'standard',
      accuracyLevel: 0,
      externalData: 'never',
      verify: false,
      dryRun: true,
      force: true,
      strict: true,
      threads: 3,
      seed: 9,
    })
  })

  it('say what to calibrate on, every one of them', async () => {
    const { config } = await understood(
      ...['quantize', 'm.onnx', '-o', 'o.onnx', '--data', 'x.npz', 'y', '--data', 'z', '--samples', '0'],
      ...['--rename', 'in=arr', '--rename', 'a:0=b', '--set', 'sr=16000', '--set', 'x=-1', '--scale', '0.5'],
      ...['--mean', '0.1,0.2', '--std', '1,2', '--size', '224x320', '--layout', 'nhwc', '--seq-len', '512'],
      ...['--holdout', '12.5%', '--select', 'el2n', '--stats', 's', '--stats', 't', '--resume', 'r'],
      ...['--damping', '0.05', '--scratch', 'tmp', '--method', 'gptq'],
    )
    expect(config).toEqual({
      ...QUANTIZE_DEFAULTS,
      method: 'gptq',
      data: ['x.npz', 'y', 'z'],
      samples: 0,
      rename: { in: 'arr', 'a:0': 'b' },
      set: { sr: 16000, x: -1 },
      normalize: { scale: 0.5, mean: [0.1, 0.2], std: [1, 2] },
      imageSize: [224, 320],
      layout: 'nhwc',
      seqLen: 512,
      holdout: 0.125,
      select: 'el2n',
      stats: ['s', 't'],
      resume: 'r',
      damping: 0.05,
      scratch: 'tmp',
    })
  })

  it('calibrate as soon as there is data, and take one size for both sides', async () => {
    const { config } = await understood('quantize', 'm', '-o', 'o', '--data', 'x', '--size', '224', '--holdout', '0')
    expect(config).toEqual({ ...QUANTIZE_DEFAULTS, method: 'gptq', data: ['x'], imageSize: [224, 224], holdout: 0 })
  })

  it('say how widths are allocated, every one of them', async () => {
    const { config } = await understood(
      ...['quantize', 'm', '-o', 'o', '--data', 'x', '--budget', '4bit', '--budget', '350MB', '--solver', 'bisection'],
      ...[
        '--sensitivity',
        'kl,shapley',
        '--analysis',
        'a.json',
        '--tie',
        '*/attn/*',
        '--tie',
        '/mlp/',
        '--max-kl',
        '0.01',
        '--max-drop',
        '0.1%',
        '--labels',
        'l.npz:y',
      ],
      ...[
        '--max-latency',
        '0.7x',
        '--latency',
        'l',
        '--positions',
        '16',
        '--evaluations',
        '5',
        '--pareto',
        'c.json',
        '--save-plan',
        'p',
      ],
    )
    expect(config).toEqual({
      ...QUANTIZE_DEFAULTS,
      ...{ method: 'codebook', codebook: 'light' },
      data: ['x'],
      budget: '4bit,350MB',
      solver: 'bisection',
      sensitivity: ['kl', 'shapley'],
      analysis: 'a.json',
      tie: ['*/attn/*', '/mlp/'],
      maxKl: 0.01,
      maxDrop: 0.001,
      labels: 'l.npz:y',
      maxLatency: '0.7x',
      latency: 'l',
      positions: 16,
      evaluations: 5,
      pareto: 'c.json',
      savePlan: 'p',
    })
    const planned = await understood('quantize', 'm', '-o', 'o', '--plan', 'p.json', '--layer', 'h=8')
    expect(planned.config).toMatchObject({ plan: 'p.json', solver: 'uniform', layers: [{ pattern: 'h', bits: 8 }] })
  })

  it('say how to rotate and how tokens count, every one of them', async () => {
    const { config } = await understood(
      ...['quantize', 'm.onnx', '-o', 'o.onnx', '--data', 'x', '--method', 'rsq', '--rotation', 'on'],
      ...['--rotation-seeds', '8', '--online-rotation', '--token-importance', 'first-last', '--importance-min', '0.1'],
      ...['--importance-exponent', '2', '--importance-length', 'sqrt', '--importance-quantile', '0.95', '--roll', '4'],
    )
    expect(config).toEqual({
      ...QUANTIZE_DEFAULTS,
      data: ['x'],
      method: 'rsq',
      rotation: 'on',
      rotationSeeds: 8,
      onlineRotation: true,
      tokenImportance: 'first-last',
      importanceMin: 0.1,
      importanceExponent: 2,
      importanceLength: 'sqrt',
      importanceQuantile: 0.95,
      roll: 4,
    })
  })

  it('say which tables of levels, every one of them', async () => {
    const of = async (...flags: string[]) =>
      (await understood('quantize', 'm.onnx', '-o', 'o.onnx', '--method', 'codebook', ...flags)).config
    const own = { ...QUANTIZE_DEFAULTS, method: 'codebook' }
    expect(await of()).toEqual(own)
    expect(
      await of('--codebook', 'jlcm', '--row-groups', '16', '--bits', '3', '--data', 'x', '--mapping', 'softmax'),
    ).toEqual({
      ...own,
      ...{ codebook: 'jlcm', rowGroups: 16, bits: 3, data: ['x'], mapping: 'softmax' },
    })
    const trellis = { codebook: 'trellis', trellisWindow: 8, budget: '3bpw', stats: ['s'] }
    const flags = ['--codebook', 'trellis', '--trellis-window', '8', '--budget', '3bpw', '--stats', 's']
    expect(await of(...flags, '--row-groups', 'auto')).toEqual({ ...own, ...trellis })
  })

  it('take a budget that starts with a dash', async () => {
    const task = await understood('quantize', 'm.onnx', '--dry-run', '--budget', '-60%', '--symmetric')
    expect(task.config).toMatchObject({ budget: '-60%', symmetric: 'yes' })
  })

  it.each([
    [['m.onnx'], 'no output', '-o m_q4.onnx'],
    [['dir/m.onnx', '--bits', '8'], 'no output', '-o dir/m_q8.onnx'],
    [['m.onnx', '--budget', '3.5bit'], 'no output', '-o m_q3.5.onnx'],
    [['m.onnx', '--budget', '5MB'], 'no output', '-o m_quantized.onnx'],
    [['-o', 'o.onnx'], "missing required argument 'model'", '--help'],
    [['m.onnx', 'n.onnx', '-o', 'o.onnx'], 'too many arguments', '--help'],
    [['m.onnx', '-o', 'o.onnx', '--bitz', '4'], "unknown option '--bitz'", '--bits'],
    [['m.onnx', '-o', 'o.onnx', '--bits'], 'argument missing', '--help'],
    [['m.onnx', '-o', ''], "-o '': wanted a file name", 'standard output'],
    [['m.onnx', '-o', '-'], "-o '-': wanted a file name", 'standard output'],
    [['m.onnx', '-o', 'o', '--codebook', 'nf4'], 'codebook is given without method codebook', '--method codebook'],
    [
      ['m.onnx', '-o', 'o', '--method', 'codebook', '--row-groups', 'x'],
      "--row-groups: wanted a number, found 'x'",
      '',
    ],
    [
      ['m.onnx', '-o', 'o', '--method', 'codebook', '--row-groups', '17'],
      '--row-groups: wanted "auto" or an integer from 1 to 16, found 17',
      '',
    ],
    [['m.onnx', '-o', 'o', '--method', 'codebook', '--symmetric'], 'symmetric is given with method codebook', ''],
    [['m.onnx', '-o', 'o.onnx', '--bits', '7'], '--bits: wanted one of 8, 6, 5, 4, 3, 2, found 7', ''],
    [['m.onnx', '-o', 'o.onnx', '--bits', 'four'], "--bits: wanted a number, found 'four'", ''],
    [['m.onnx', '-o', 'o.onnx', '--bits', ''], '--bits: wanted a number', ''],
    [['m.onnx', '-o', 'o.onnx', '--group-size', '33'], '--group-size: wanted one of 16, 32', ''],
    [['m.onnx', '-o', 'o.onnx', '--format', 'tflite'], '--format: wanted one of auto, contrib, standard', ''],
    [['m.onnx', '-o', 'o.onnx', '--threads', '-1'], '--threads: wanted an integer from 0', ''],
    [['m.onnx', '-o', 'o.onnx', '--bits', '4', '--budget', '4bit'], 'both a budget (4bit) and a width', 'budget'],
    [['m.onnx', '-o', 'o.onnx', '--symmetric', '--asymmetric'], 'cannot be used with', '--help'],
    [['m.onnx', '-o', 'o.onnx', '--layer', 'attn'], '--layer: wanted PATTERN=BITS', ''],
    [['m.onnx', '-o', 'o.onnx', '--layer', 'a=7'], '--layer: wanted a list', ''],
    [['m.onnx', '-o', 'o.onnx', '--layer', '/(/=8'], 'not a regular expression', 'glob'],
    [['m.onnx', '-o', 'o.onnx', '--method', 'gptq'], 'method gptq needs calibration data', '--stats FILE'],
    [['m.onnx', '-o', 'o.onnx', '--method', 'rtn', '--data', 'x'], 'data is given, but method rtn', 'gptq'],
    [['m.onnx', '-o', 'o.onnx', '--samples', '256'], 'samples is given without data', '--data'],
    [['m.onnx', '-o', 'o.onnx', '--stats', 's', '--select', 'kl'], 'select is given without data', '--data'],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--size', '1x2x3'], '--size: wanted a size such as 224', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--size', '1x'], '--size: wanted a number', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--size', '0'], '--size: wanted height and width', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--seq-len', '0'], '--seq-len: wanted an integer from 1', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--holdout', '60%'], '--holdout: wanted a number from 0 to 0.5', '20%'],
    [['m.onnx', '-o', 'o.onnx', '--solver', 'greedy'], '--solver: wanted one of uniform, ilp, dp, bisection', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--max-kl', '0'], '--max-kl: wanted a number above 0', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--max-latency', '70%'], "latency '70%': wanted a ratio", '0.7x'],
    [['m.onnx', '-o', 'o.onnx', '--method', 'rsq'], 'method rsq needs calibration data', '--data PATH'],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--rotation', 'auto'], 'rotation is given without', '--method rsq'],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--method', 'rsq', '--holdout', '0'], 'nothing held out', '--holdout'],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--method', 'rsq', '--roll', '0'], '--roll: wanted an integer', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--method', 'rsq', '--roll', 'x'], '--roll: wanted a number', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--tie', '/(/'], 'not a regular expression', 'glob'],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--tie', ''], "--tie: wanted a text, found ''", ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--evaluations', '-1'], '--evaluations: wanted an integer from 0', ''],
    [['m.onnx', '-o', 'o.onnx', '--data', 'x', '--bits', '4', '--max-kl', '1'], 'both maxKl (1) and a width', 'maxKl'],
    [
      ['m.onnx', '-o', 'o.onnx', '--budget', '4bit', '--analysis', 'a', '--plan', 'p'],
      'is given beside a plan',
      '--layer',
    ],
    [['m.onnx', '-o', 'o.onnx', '--config', '/no/such.json'], '/no/such.json: the configuration cannot be read', ''],
  ])('%j is a usage error', async (args, message, hint) => {
    const { code, stdout, stderr } = await run('quantize', ...args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr).toContain(hint)
  })
})

describe('flags of eval', () => {
  it('mean the defaults when they are absent', async () => {
    const { config, reference, candidate } = await understood('eval', 'a.onnx', 'b.onnx', '--random', '2')
    expect({ reference, candidate }).toEqual({ reference: 'a.onnx', candidate: 'b.onnx' })
    expect(config).toEqual({ ...EVAL_DEFAULTS, random: 2 })
  })

  it('reach the configuration, every one of them', async () => {
    const { config } = await understood(
      ...[
        'eval',
        'a.onnx',
        'b.onnx',
        '--data',
        'x.npz',
        'y',
        '--labels',
        'l.npz:y',
        '--samples',
        '7',
        '--batch-size',
        '2',
      ],
      ...['--rename', 'in=arr', '--rename', 'a:0=b', '--set', 'sr=16000', '--set', 'x=-1', '--scale', '0.5'],
      ...['--size', '24x32', '--layout', 'nchw', '--seq-len', '64'],
      ...['--mean', '0.1,0.2', '--std', '1,2', '--logits', 'p, q', '--runs', '3', '--threads', '1', '--seed', '4'],
      ...['--max-kl', '0.01', '--min-agreement', '99.5%', '--min-sqnr', '-3', '--min-cosine', '0.99'],
      ...['--max-difference', '2', '--max-accuracy-drop', '0.5%', '--max-perplexity-rise', '2%', '--max-size', '5MB'],
      ...['--max-latency-ratio', '110%'],
    )
    expect(config).toEqual({
      data: ['x.npz', 'y'],
      random: 0,
      labels: 'l.npz:y',
      samples: 7,
      batchSize: 2,
      rename: { in: 'arr', 'a:0': 'b' },
      shapes: {},
      set: { sr: 16000, x: -1 },
      normalize: { scale: 0.5, mean: [0.1, 0.2], std: [1, 2] },
      imageSize: [24, 32],
      layout: 'nchw',
      seqLen: 64,
      logits: ['p', 'q'],
      runs: 3,
      threads: 1,
      seed: 4,
      thresholds: {
        maxKl: 0.01,
        minAgreement: 0.995,
        minSqnr: -3,
        minCosine: 0.99,
        maxDifference: 2,
        maxAccuracyDrop: 0.005,
        maxPerplexityRise: 0.02,
        maxSize: 5_000_000,
        maxLatencyRatio: 1.1,
      },
    })
  })

  it('say the shapes of random samples', async () => {
    const { config } = await understood('eval', 'a', 'b', '--random', '1', '--shape', 'x=1,3,48,320', '--shape', 'y=2')
    expect(config.shapes).toEqual({ x: [1, 3, 48, 320], y: [2] })
  })

  it('complete a normalization, and say that no output is logits', async () => {
    const { config } = await understood('eval', 'a', 'b', '--data', 'x', '--mean', '0.5', '--logits', 'none')
    expect(config).toMatchObject({ normalize: { scale: 1, mean: [0.5], std: [1] }, logits: [] })
  })

  it.each([
    [[], 'nothing to run', '--random N'],
    [['--random', '2', '--data', 'x'], 'both data and random', '--data or --random'],
    [['--random', '2', '--labels', 'x.npy'], 'labels is given for random samples', '--data'],
    [['--random', '2', '--rename', 'a=b'], 'rename is given for random samples', '--data'],
    [['--random', '2', '--size', '24'], 'imageSize is given for random samples', '--data'],
    [['--random', '2', '--scale', '2'], 'normalize is given for random samples', '--data'],
    [['--data', 'x', '--shape', 'a=1,2'], 'shapes is given for data', '--random'],
    [['--random', '2', '--shape', 'a=1,0'], '--shape: wanted an object from input names to lists of sizes', ''],
    [['--random', '2', '--min-agreement', '99'], '--min-agreement: wanted a number from 0 to 1', '99%'],
    [['--random', '2', '--max-size', '5'.repeat(300)], '--max-size has 300 characters', ''],
    [['--random', '2', '--max-size', '5Mb'], '--max-size', 'capital B'],
    [['--random', '2', '--max-kl', '1%'], '--max-kl: wanted a number', ''],
    [['--random', '2', '--set', 'x=a'], '--set: wanted a number', ''],
    [['--data', 'x', '--mean', '1,2', '--std', '1,2,3'], 'as many standard deviations as means', ''],
    [['--data', 'x', '--std', '0'], '--std: wanted a list of numbers other than 0', ''],
  ])('%j is a usage error', async (args, message, hint) => {
    const { code, stdout, stderr } = await run('eval', 'a.onnx', 'b.onnx', ...args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr).toContain(hint)
  })
})

describe('flags of analyze', () => {
  it('mean the defaults when they are absent', async () => {
    expect(await understood('analyze', 'a.onnx')).toEqual({
      operation: 'analyze',
      model: 'a.onnx',
      config: ANALYZE_DEFAULTS,
    })
  })

  it('reach the configuration', async () => {
    const task = await understood('analyze', 'a.onnx', '--group-size', '128', '--threads', '2')
    expect(task.config).toEqual({ ...ANALYZE_DEFAULTS, groupSize: 128, threads: 2 })
  })

  it('say how to measure, every one of them', async () => {
    const { config } = await understood(
      ...[
        'analyze',
        'a.onnx',
        '--data',
        'x',
        '-o',
        'a.json',
        '--force',
        '--bits',
        '4',
        '--symmetric',
        '--layer',
        'h=8',
      ],
      ...['--sensitivity', 'kl, hessian,pairwise', '--candidates', 'all', '--configurations', '5', '--probes', '7'],
      ...['--samples', '9', '--holdout', '25%', '--select', 'kl', '--damping', '0.1', '--scratch', 's', '--seed', '3'],
      ...['--seq-len', '8', '--set', 'a=1', '--rename', 'b=c', '--size', '4x5', '--layout', 'nchw', '--mean', '2'],
    )
    expect(config).toEqual({
      ...ANALYZE_DEFAULTS,
      data: ['x'],
      output: 'a.json',
      force: true,
      bits: 4,
      symmetric: 'yes',
      layers: [{ pattern: 'h', bits: 8 }],
      sensitivity: ['kl', 'hessian', 'pairwise'],
      candidates: 'all',
      configurations: 5,
      probes: 7,
      samples: 9,
      holdout: 0.25,
      select: 'kl',
      damping: 0.1,
      scratch: 's',
      seed: 3,
      seqLen: 8,
      set: { a: 1 },
      rename: { b: 'c' },
      imageSize: [4, 5],
      layout: 'nchw',
      normalize: { scale: 1, mean: [2], std: [1] },
    })
  })

  it('divide the layers, and join the parts without a model', async () => {
    const part = await understood('analyze', 'a.onnx', '--data', 'x', '--shard', '2/8', '-o', 'a.2.json')
    expect(part.config).toMatchObject({ shard: '2/8', configurations: 0, output: 'a.2.json' })
    expect(await understood('analyze', '--merge', 'a.1.json', 'a.2.json', '-o', 'a.json', '--force')).toEqual({
      operation: 'analyze',
      config: { ...ANALYZE_DEFAULTS, merge: ['a.1.json', 'a.2.json'], output: 'a.json', force: true },
    })
  })

  it('list every sensitivity in the help', async () => {
    const { stdout } = await run('analyze', '--help')
    const words = stdout.split(/[\s,]+/)
    for (const name of SENSITIVITIES) expect(words).toContain(name)
  })

  it.each([
    [[], "missing required argument 'model'", 'name an ONNX file'],
    [['a.onnx', '--merge', 'b', 'c', '-o', 'd'], 'a.onnx is given beside --merge', 'every part after --merge'],
    [['--merge', 'b', 'c'], 'merge is given without an output', '-o analysis.json'],
    [['--merge', 'b', '--data', 'x', '-o', 'd'], 'data is given beside merge', ''],
    [['a', '--data', 'x', '-o', '-'], "-o '-': wanted a file name", '--json'],
    [['a', '-o', 'b'], 'output is given without data', '--data'],
    [['a', '--shard', '1/2', '-o', 'b'], 'shard is given without data', '--data'],
    [['a', '--data', 'x', '--shard', '0/2', '-o', 'b'], '--shard: wanted a part such as 2/8', 'found "0/2"'],
    [['a', '--data', 'x', '--sensitivity', 'kl,fisher'], '--sensitivity: wanted a list of kl, hessian', 'fisher'],
    [['a', '--data', 'x', '--sensitivity', ''], '--sensitivity: wanted a list of kl', ''],
    [['a', '--data', 'x', '--configurations', '-1'], '--configurations: wanted an integer from 0', ''],
  ])('%j is a usage error', async (args, message, hint) => {
    const { code, stdout, stderr } = await run('analyze', ...args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr).toContain(hint)
  })
})

describe('a configuration file', () => {
  it('gives values, and flags win over it', async () => {
    const path = configFile({
      quantize: { budget: '4bit', format: 'standard', layers: [{ pattern: 'a', bits: 8 }], strict: true },
      eval: { random: 3 },
    })
    const { config } = await understood(
      ...['quantize', 'm', '-o', 'o', '--config', path, '--bits', '5', '--layer', 'b=skip', '--format', 'contrib'],
    )
    expect(config).toEqual({
      ...QUANTIZE_DEFAULTS,
      bits: 5,
      format: 'contrib',
      layers: [
        { pattern: 'a', bits: 8 },
        { pattern: 'b', bits: 'skip' },
      ],
      strict: true,
    })
  })

  it('may hold the keys of one command, with percentages, sizes, and paths relative to itself', async () => {
    const path = configFile({ data: ['d.npz'], thresholds: { maxSize: '5 MiB', minAgreement: '99%', maxKl: 1 } })
    const { config } = await understood('eval', 'a', 'b', '--config', path, '--max-kl', '2')
    expect(config.data).toEqual([join(FOLDER, 'd.npz')])
    expect(config.thresholds).toEqual({ maxSize: 5 * 2 ** 20, minAgreement: 0.99, maxKl: 2 })
  })

  it('says what to calibrate on, with a percentage and paths relative to itself', async () => {
    const path = configFile({
      quantize: { data: ['d.npz', '/abs/e.npz'], stats: ['s'], resume: 'r', scratch: '..', holdout: '25%', samples: 8 },
      eval: { random: 1 },
    })
    const { config } = await understood('quantize', 'm', '-o', 'o', '--config', path, '--samples', '9')
    expect(config).toEqual({
      ...QUANTIZE_DEFAULTS,
      method: 'gptq',
      data: [join(FOLDER, 'd.npz'), '/abs/e.npz'],
      stats: [join(FOLDER, 's')],
      resume: join(FOLDER, 'r'),
      scratch: join(FOLDER, '..'),
      holdout: 0.25,
      samples: 9,
    })
  })

  it('gives way to a method that looks at the weights alone, and to data', async () => {
    const calibrated = configFile({ data: ['d'], stats: ['s'], damping: 0.1, set: { a: 1 }, holdout: 0.1, bits: 3 })
    const plain = await understood('quantize', 'm', '-o', 'o', '--config', calibrated, '--method', 'rtn')
    expect(plain.config).toEqual({ ...QUANTIZE_DEFAULTS, bits: 3, method: 'rtn' })
    const rounded = configFile({ method: 'rtn', bits: 3 })
    const { config } = await understood('quantize', 'm', '-o', 'o', '--config', rounded, '--data', 'd')
    expect(config).toEqual({ ...QUANTIZE_DEFAULTS, bits: 3, method: 'gptq', data: ['d'] })
  })

  it('keeps rsq for other data, and gives way to another method', async () => {
    const own = { rotation: 'on', rotationSeeds: 8, onlineRotation: true, tokenImportance: 'none', roll: 2 }
    const weights = { importanceMin: 0.1, importanceExponent: 2, importanceLength: 'sqrt', importanceQuantile: 0.9 }
    const path = configFile({ method: 'rsq', data: ['d'], bits: 3, ...own, ...weights })
    const resolved = (...flags: string[]) => understood('quantize', 'm', '-o', 'o', '--config', path, ...flags)
    const common = { ...QUANTIZE_DEFAULTS, bits: 3 }
    const rsq = { ...common, method: 'rsq', ...own, ...weights }
    expect((await resolved('--data', 'e')).config).toEqual({ ...rsq, data: ['e'] })
    expect((await resolved('--rotation', 'off')).config).toMatchObject({ rotation: 'off', rotationSeeds: 8 })
    expect((await resolved('--method', 'rsq')).config).toEqual({ ...rsq, data: [join(FOLDER, 'd')] })
    const gptq = await resolved('--method', 'gptq')
    expect(gptq.config).toEqual({ ...common, method: 'gptq', data: [join(FOLDER, 'd')] })
    expect((await resolved('--method', 'rtn')).config).toEqual({ ...common, method: 'rtn' })
  })

  it('keeps the tables of its own, and gives way to others and to another method', async () => {
    const own = { codebook: 'jlcm', rowGroups: 8 }
    const path = configFile({ method: 'codebook', data: ['d'], bits: 3, ...own })
    const resolved = async (...flags: string[]) =>
      (await understood('quantize', 'm', '-o', 'o', '--config', path, ...flags)).config
    const common = { ...QUANTIZE_DEFAULTS, bits: 3, data: [join(FOLDER, 'd')] }
    const jlcm = { ...common, method: 'codebook', ...own }
    expect(await resolved()).toEqual(jlcm)
    expect(await resolved('--data', 'e')).toEqual({ ...jlcm, data: ['e'] })
    expect(await resolved('--method', 'codebook', '--bits', '2')).toEqual({ ...jlcm, bits: 2 })
    expect(await resolved('--codebook', 'lut')).toEqual({ ...common, method: 'codebook', codebook: 'lut' })
    expect(await resolved('--codebook', 'jlcm', '--row-groups', '2')).toEqual({ ...jlcm, rowGroups: 2 })
    expect(await resolved('--method', 'gptq')).toEqual({ ...common, method: 'gptq' })
    expect(await resolved('--method', 'rtn')).toEqual({ ...common, data: [], method: 'rtn' })
    const mixed = configFile({ budget: '4bit', data: ['d'], solver: 'dp', tie: ['*'], maxKl: 1, symmetric: 'yes' })
    const { config } = await understood('quantize', 'm', '-o', 'o', '--config', mixed, '--method', 'codebook')
    const kept = { budget: '4bit', solver: 'dp', tie: ['*'], maxKl: 1 }
    expect(config).toEqual({ ...common, bits: undefined, method: 'codebook', ...kept })
  })

  it('gives way to a width, a plan, a limit, or one width for all', async () => {
    const allocating = { solver: 'dp', tie: ['*'], maxKl: 1, evaluations: 9, savePlan: 'p', pareto: 'c', analysis: 'a' }
    const path = configFile({ budget: '4bit', data: ['d'], ...allocating })
    const resolved = (...flags: string[]) => understood('quantize', 'm', '-o', 'o', '--config', path, ...flags)
    const common = { ...QUANTIZE_DEFAULTS, method: 'gptq', data: [join(FOLDER, 'd')], savePlan: join(FOLDER, 'p') }
    const light = { ...common, method: 'codebook', codebook: 'light' }
    expect((await resolved()).config).toEqual({
      ...{ ...light, budget: '4bit', ...allocating, sensitivity: [] },
      ...{ pareto: join(FOLDER, 'c'), analysis: join(FOLDER, 'a'), savePlan: join(FOLDER, 'p') },
    })
    expect((await resolved('--bits', '3')).config).toEqual({ ...common, bits: 3 })
    expect((await resolved('--plan', 'q')).config).toEqual({ ...light, plan: 'q' })
    expect((await resolved('--solver', 'uniform')).config).toEqual({ ...common, budget: '4bit' })
    expect((await resolved('--method', 'rtn')).config).toMatchObject({ method: 'rtn', solver: 'dp', evaluations: 0 })
    const planned = configFile({ plan: 'p', data: ['d'] })
    const { config } = await understood('quantize', 'm', '-o', 'o', '--config', planned, '--budget', '3bit')
    expect(config).toMatchObject({ budget: '3bit', solver: 'ilp' })
    expect(config).not.toHaveProperty('plan')
  })

  it('gives way to the joining of parts, and the other way round', async () => {
    const measuring = configFile({
      analyze: { data: ['d'], sensitivity: ['zd'], output: 'a', groupSize: 64, probes: 4 },
    })
    const joined = await understood('analyze', '--config', measuring, '--merge', 'b', 'c')
    expect(joined.config).toEqual({ ...ANALYZE_DEFAULTS, output: join(FOLDER, 'a'), merge: ['b', 'c'] })
    const joining = configFile({ merge: ['b', 'c'], output: 'a' })
    const measured = await understood('analyze', 'm', '--config', joining, '--data', 'd')
    expect(measured.config).toEqual({ ...ANALYZE_DEFAULTS, output: join(FOLDER, 'a'), data: ['d'] })
  })

  it('gives way to the other source of inputs', async () => {
    const path = configFile({ data: ['d.npz'], labels: 'l.npy', rename: { a: 'b' }, normalize: { scale: 2 } })
    const { config } = await understood('eval', 'a', 'b', '--config', path, '--random', '2')
    expect(config).toEqual({ ...EVAL_DEFAULTS, random: 2 })
  })

  it.each([
    [{ quantize: { bitz: 4 } }, 'bitz: there is no such key', 'did you mean bits?'],
    [{ grupSize: 4 }, 'grupSize: there is no such key', 'did you mean groupSize?'],
    [{ somethingElse: 4 }, 'somethingElse: there is no such key', 'known keys: budget, bits'],
    [{ quantize: {}, evla: {} }, 'no section evla', 'did you mean eval?'],
    [{ quantize: { bits: '4' } }, 'bits: wanted one of', 'found "4"'],
    [{ quantize: 4 }, 'wanted an object', 'found 4'],
    [{ layers: [{ pattern: 'x', bits: 7 }] }, 'layers: wanted a list', 'found'],
    [{ data: ['x'], holdout: '60%' }, 'holdout: wanted a number from 0 to 0.5', 'found 0.6'],
    [{ data: ['x'], holdout: 'a%' }, "holdout: wanted a number or a percentage, found 'a%'", ''],
    [{ data: 'x' }, 'data: wanted a list of texts', 'found "x"'],
    [{ data: ['x'], imageSize: '224' }, 'imageSize: wanted height and width', ''],
    ['{"bits": 4', 'is not JSON', ''],
    ['[1]', 'wanted a JSON object', 'write for example'],
    [{ __proto__: null, constructor: 1 }, 'constructor: there is no such key', ''],
  ])('%j is a usage error that names the file', async (content, message, hint) => {
    const path = configFile(content)
    const { code, stderr } = await run('quantize', 'm', '-o', 'o', '--config', path)
    expect(code).toBe(2)
    expect(stderr).toContain(path)
    expect(stderr).toContain(message)
    expect(stderr).toContain(hint)
  })

  it('names a nested key', async () => {
    const path = configFile({ eval: { random: 2, thresholds: { maxKL: 1 } } })
    const { code, stderr } = await run('eval', 'a', 'b', '--config', path)
    expect(code).toBe(2)
    expect(stderr).toContain(`${path}: thresholds.maxKL: there is no such key`)
    expect(stderr).toContain('did you mean thresholds.maxKl?')
  })
})

describe('the program', () => {
  it.each([
    [['quantise', 'm'], "unknown command 'quantise'", 'quantize'],
    [['--frobnicate'], "unknown option '--frobnicate'", '--help'],
  ])('%j is a usage error', async (args, message, hint) => {
    const { code, stderr } = await run(...args)
    expect(code).toBe(2)
    expect(stderr).toContain(message)
    expect(stderr).toContain(hint)
  })

  it('answers a usage error with one JSON document when JSON is asked for', async () => {
    const { code, stdout, stderr } = await run('quantize', 'm.onnx', '--json')
    expect(JSON.parse(stdout)).toEqual({
      schemaVersion: 1,
      kind: 'error',
      code: 'usage',
      exitCode: 2,
      message: 'there is no output',
      hint: expect.stringContaining('m_q4.onnx'),
    })
    expect(code).toBe(2)
    expect(stderr).toContain('error: there is no output')
  })
})
