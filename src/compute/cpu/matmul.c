/* Divides a set of matrix products into tasks. */
#include "compute/cpu/gemm.h"

/* The least work of a decode task, in bytes of weights used by one token. */
#define DECODE_TASK_WORK ((size_t)48 << 10)

/* If several tokens go through gemv, it processes rows of this many bytes for all tokens before the next rows, because
 * they stay in the first-level cache. */
#define GEMV_BLOCK_BYTES ((size_t)16 << 10)

/* Activations with more elements are prepared in a parallel section, which takes about as long as this many elements.
 */
#define PREPARE_ALONE_ELEMENTS ((size_t)16 << 10)

#define GEMM_LEAST_TASK_ROWS ((size_t)64)
#define GEMM_LEAST_TASK_TOKENS ((size_t)96)

/* By measurement: the fixed work of a gemm task for its weights, in tokens, and for each token, in rows. */
#define GEMM_WEIGHTS_TOKENS ((size_t)40)
#define GEMM_TOKEN_ROWS ((size_t)8)

/* This many tasks per thread are enough, however large they are. */
#define GEMM_ENOUGH_TASKS ((size_t)8)

#define SECTION_JOBS 256

bool compute_supports(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && kernel_table_get(INSTRUCTIONS_PLAIN)->types[type].gemv;
}

void compute_dequantize(enum tensor_type type, const void *blocks, float *out, size_t elements)
{
    kernel_table_best()->types[type].dequantize(out, blocks, elements);
}

/* ---- one section ------------------------------------------------------------------------------------------------- */

/* The kernel that a job uses. */
enum path { PATH_GEMV, PATH_FEW, PATH_GEMM };

/* How a job is divided: into tasks of task_rows x task_tokens, in the order of rows. */
struct cut {
    size_t first_task, tasks;
    enum path path;
    size_t task_rows;
    size_t task_tokens;
    size_t row_tasks;
};

struct section {
    const struct compute *compute;
    const struct matmul *jobs;
    size_t count, tasks;
    struct cut cuts[SECTION_JOBS];
};

static const struct kernel *job_kernel(const struct compute *compute, const struct matmul *job)
{
    return &compute->kernels->types[job->weights.type];
}

static size_t divide_up(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static enum path job_path(const struct kernel *kernel, const struct matmul *job)
{
    if (kernel->gemm && job->tokens >= kernel->gemm_least_tokens)
        return PATH_GEMM;
    if (kernel->few && job->tokens >= kernel->few_least_tokens && job->tokens <= FEW_MOST_TOKENS)
        return PATH_FEW;
    return PATH_GEMV;
}

/* The work of a row, in bytes of weights used by one token. Unpacking a row for several tokens takes as long as
 * multiplying it by about three. */
static size_t row_work(enum path path, const struct matmul *job)
{
    size_t bytes = MAX(job->weights.row_bytes, (size_t)1);
    return path == PATH_FEW ? bytes * (3 + job->tokens) / 4 + 1 : bytes * job->tokens;
}

/* The size of gemm tasks: their rows, except for the last task of a matrix, and into how many parts tokens are divided.
 */
struct shape {
    size_t rows, token_parts;
};

static void cut_gemm(const struct compute *compute, const struct matmul *job, size_t most_rows, struct shape shape,
                     struct cut *cut)
{
    size_t least_parts = divide_up(job->tokens, compute->task_tokens);
    size_t most_parts = MAX(job->tokens / GEMM_LEAST_TASK_TOKENS, least_parts);
    cut->task_rows = MIN(shape.rows, most_rows);
    cut->task_tokens = divide_up(job->tokens, MIN(MAX(shape.token_parts, least_parts), most_parts));
    cut->row_tasks = divide_up(job->weights.rows, cut->task_rows);
    cut->tasks = cut->row_tasks * divide_up(job->tokens, cut->task_tokens);
}

/* Estimates the time of a section's gemm with tasks of this shape: whole rounds of tasks, plus a part of a task,
 * because threads neither start at the same time nor run at the same speed. */
static double estimate(const struct section *section, struct shape shape, size_t *tasks)
{
    double work = 0, most = 0;
    *tasks = 0;
    for (size_t i = 0; i < section->count; i++) {
        const struct matmul *job = &section->jobs[i];
        const struct kernel *kernel = job_kernel(section->compute, job);
        struct cut cut;
        if (job->weights.rows == 0 || job_path(kernel, job) != PATH_GEMM)
            continue;
        cut_gemm(section->compute, job, kernel->gemm_task_rows, shape, &cut);
        double task = (double)((MIN(cut.task_rows, job->weights.rows) + GEMM_TOKEN_ROWS) *
                               (cut.task_tokens + GEMM_WEIGHTS_TOKENS) * job->weights.columns);
        *tasks += cut.tasks;
        work += task * (double)cut.tasks;
        most = task > most ? task : most;
    }
    double average = *tasks ? work / (double)*tasks : 0;
    double rounds = (double)divide_up(*tasks, section->compute->threads) * average;
    return (rounds > most ? rounds : most) + average / 8;
}

static struct shape choose_shape(const struct section *section)
{
    struct shape best = {.rows = SIZE_MAX, .token_parts = 1}, shape = best;
    size_t tasks, enough = GEMM_ENOUGH_TASKS * section->compute->threads;
    double shortest = estimate(section, best, &tasks);
    if (section->compute->threads == 1 || tasks >= enough)
        return best;
    for (shape.rows = GEMM_TASK_ROWS; shape.rows >= GEMM_LEAST_TASK_ROWS; shape.rows /= 2) {
        for (shape.token_parts = 1; shape.token_parts <= GEMM_TASK_TOKENS / GEMM_LEAST_TASK_TOKENS;
             shape.token_parts++) {
            double time = estimate(section, shape, &tasks);
            if (time < shortest) {
                shortest = time;
                best = shape;
            }
        }
    }
    return best;
}

static void cut_job(const struct section *section, const struct matmul *job, struct shape shape, struct cut *cut)
{
    const struct kernel *kernel = job_kernel(section->compute, job);
    cut->tasks = 0;
    cut->path = PATH_GEMV;
    if (job->tokens == 0 || job->weights.rows == 0)
        return;
    cut->path = job_path(kernel, job);
    if (cut->path == PATH_GEMM) {
        cut_gemm(section->compute, job, kernel->gemm_task_rows, shape, cut);
        return;
    }
    cut->task_tokens = job->tokens;
    cut->task_rows = MAX(DECODE_TASK_WORK / row_work(cut->path, job) & ~(size_t)15, (size_t)16);
    cut->tasks = cut->row_tasks = divide_up(job->weights.rows, cut->task_rows);
}

static size_t input_row(const struct matmul *job, size_t token)
{
    return job->input_rows ? job->input_rows[token] : token;
}

static float *output_row(const struct matmul *job, size_t token)
{
    return job->output + (job->output_rows ? job->output_rows[token] : token) * job->output_stride;
}

static void run_gemv(const struct matmul *job, const struct kernel *kernel, size_t first_row, size_t rows,
                     struct gemv_surroundings around)
{
    const struct matrix *weights = &job->weights;
    size_t step = rows;
    if (job->tokens > 1)
        step = MAX(GEMV_BLOCK_BYTES / MAX(weights->row_bytes, (size_t)1) & ~(size_t)15, (size_t)16);
    for (size_t r = first_row; r < first_row + rows; r += step) {
        for (size_t token = 0; token < job->tokens; token++) {
            struct activation_row x = activation_row(job->input, kernel->activation, input_row(job, token));
            x.around.cold = around.cold && r == first_row && token == 0;
            x.around.then = r + step >= first_row + rows ? around.then : NULL;
            kernel->gemv(output_row(job, token) + r, weights->data + r * weights->row_bytes, weights->row_bytes,
                         MIN(step, first_row + rows - r), weights->columns, &x);
        }
    }
}

/* At the end of a matrix, rows that are not a multiple of FEW_ROWS are processed token by token. */
static void run_few(const struct matmul *job, const struct kernel *kernel, size_t first_row, size_t rows)
{
    size_t whole = rows & ~(FEW_ROWS - 1);
    if (whole)
        kernel->few(job, first_row, whole);
    if (rows > whole)
        run_gemv(job, kernel, first_row + whole, rows - whole, (struct gemv_surroundings){0});
}

static size_t job_of_task(const struct section *section, size_t index)
{
    size_t low = 0, high = section->count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (section->cuts[middle].first_task <= index)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Runs count consecutive tasks of a job, whose rows are adjacent. */
static void run_job(const struct section *section, size_t number, size_t first, size_t count, size_t worker,
                    struct gemv_surroundings around)
{
    const struct matmul *job = &section->jobs[number];
    const struct cut *cut = &section->cuts[number];
    const struct kernel *kernel = job_kernel(section->compute, job);
    size_t first_row = first % cut->row_tasks * cut->task_rows;
    size_t rows = MIN(count * cut->task_rows, job->weights.rows - first_row);
    size_t first_token = first / cut->row_tasks * cut->task_tokens;
    size_t tokens = MIN(cut->task_tokens, job->tokens - first_token);
    if (cut->path == PATH_GEMM)
        kernel->gemm(job, first_row, rows, first_token, tokens,
                     section->compute->scratch + worker * section->compute->scratch_bytes);
    else if (cut->path == PATH_FEW)
        run_few(job, kernel, first_row, rows);
    else
        run_gemv(job, kernel, first_row, rows, around);
    if (job->bias)
        for (size_t token = first_token; token < first_token + tokens; token++)
            for (size_t r = first_row; r < first_row + rows; r++)
                output_row(job, token)[r] += job->bias[r];
}

static void run_task(void *context, size_t index, size_t worker)
{
    const struct section *section = context;
    size_t job = job_of_task(section, index);
    run_job(section, job, index - section->cuts[job].first_task, 1, worker, (struct gemv_surroundings){.cold = true});
}

/* The start of the weights of the next job that has any tasks. */
static const uint8_t *next_weights(const struct section *section, size_t job)
{
    while (++job < section->count)
        if (section->cuts[job].tasks)
            return section->jobs[job].weights.data;
    return NULL;
}

/* Runs tasks of a section without gemm. At the end of a job's weights, it prefetches the beginning of the next job's.
 * Otherwise each matrix would start with cold caches, and small matrices would be half as fast as large ones. */
static void run_tasks(void *context, size_t first, size_t count, size_t worker)
{
    const struct section *section = context;
    const uint8_t **asked = &section->compute->asked[worker];
    for (size_t end = first + count, job = job_of_task(section, first); first < end; job++) {
        const struct cut *cut = &section->cuts[job];
        size_t job_end = cut->first_task + cut->tasks;
        if (first >= job_end)
            continue;
        const struct matrix *weights = &section->jobs[job].weights;
        size_t first_row = (first - cut->first_task) * cut->task_rows;
        size_t end_row = MIN((MIN(end, job_end) - cut->first_task) * cut->task_rows, weights->rows);
        struct gemv_surroundings around = {.cold = *asked != weights->data + first_row * weights->row_bytes};
        if (end_row == weights->rows)
            around.then = next_weights(section, job);
        run_job(section, job, first - cut->first_task, MIN(end, job_end) - first, worker, around);
        *asked = around.then ? around.then : weights->data + end_row * weights->row_bytes;
        first = job_end;
    }
}

/* ---- preparing activations --------------------------------------------------------------------------------------- */

struct preparation {
    const struct compute *compute;
    struct activation *activation;
    enum activation_kind kind;
};

static void prepare_rows(void *context, size_t first, size_t count, size_t worker)
{
    (void)worker;
    const struct preparation *preparation = context;
    activation_prepare_rows(preparation->activation, preparation->compute->kernels, preparation->kind, first, count);
}

static void prepare(struct compute *compute, const struct matmul *job)
{
    struct preparation preparation = {compute, job->input, job_kernel(compute, job)->activation};
    struct activation *activation = job->input;
    if (job->tokens == 0 || activation->ready[preparation.kind])
        return;
    if (activation->rows > 1 && activation->rows * activation->columns > PREPARE_ALONE_ELEMENTS)
        thread_pool_run_shares(compute->pool, prepare_rows, &preparation, activation->rows);
    else
        activation_prepare_rows(activation, compute->kernels, preparation.kind, 0, activation->rows);
    activation->ready[preparation.kind] = true;
}

/* Returns whether any job uses gemm. */
static bool cut_section(struct section *section, const struct compute *compute, const struct matmul *jobs, size_t count)
{
    bool gemm = false;
    section->compute = compute;
    section->jobs = jobs;
    section->count = count;
    section->tasks = 0;
    for (size_t i = 0; i < count; i++)
        gemm = gemm || job_path(job_kernel(compute, &jobs[i]), &jobs[i]) == PATH_GEMM;
    const struct shape shape = gemm ? choose_shape(section) : (struct shape){0};
    for (size_t i = 0; i < count; i++) {
        section->cuts[i].first_task = section->tasks;
        cut_job(section, &jobs[i], shape, &section->cuts[i]);
        section->tasks += section->cuts[i].tasks;
    }
    return gemm;
}

/* ---- what is read next --------------------------------------------------------------------------------------------
 */

#define EXPECTED_JOBS 32u

/* Per worker: what the memory gives while a section ends and the next one begins, some 15 us. It is a part of the
 * second-level cache of any core. */
#define EXPECTED_BYTES ((size_t)128 << 10)

struct expectation {
    struct matmul jobs[EXPECTED_JOBS];
    struct section section;
    bool given; /* for the next section */
};

hypura_status expectation_create(struct compute *compute, hypura_error *error)
{
    return ALLOCATE(&compute->expectation, 1, "expected products", error);
}

void compute_expect(struct compute *compute, const struct matrix *weights, size_t count, size_t tokens)
{
    struct expectation *expectation = compute->expectation;
    expectation->given = false;
    if (count == 0 || count > EXPECTED_JOBS || compute->threads == 1 || compute->nodes.count)
        return;
    for (size_t i = 0; i < count; i++)
        expectation->jobs[i] = (struct matmul){.weights = weights[i], .tokens = tokens};
    expectation->given = !cut_section(&expectation->section, compute, expectation->jobs, count);
}

static struct thread_memory first_weights(void *context, size_t worker)
{
    const struct section *section = context;
    const size_t threads = section->compute->threads, first = section->tasks * worker / threads;
    const size_t end = section->tasks * (worker + 1) / threads;
    if (first == end)
        return (struct thread_memory){0};
    const size_t job = job_of_task(section, first);
    const struct matrix *weights = &section->jobs[job].weights;
    const struct cut *cut = &section->cuts[job];
    const size_t row = (first - cut->first_task) * cut->task_rows;
    const size_t rows = MIN((end - first) * cut->task_rows, weights->rows - row);
    return (struct thread_memory){weights->data + row * weights->row_bytes,
                                  MIN(rows * weights->row_bytes, EXPECTED_BYTES)};
}

/* ---- all jobs ------------------------------------------------------------------------------------------------------
 */

static void run_section(struct compute *compute, const struct matmul *jobs, size_t count)
{
    struct section section;
    struct expectation *expectation = compute->expectation;
    const bool gemm = cut_section(&section, compute, jobs, count);
    thread_pool_expect(compute->pool, expectation->given && !gemm ? first_weights : NULL, &expectation->section);
    expectation->given = false;
    if (gemm)
        thread_pool_run(compute->pool, run_task, &section, section.tasks);
    else
        thread_pool_run_shares(compute->pool, run_tasks, &section, section.tasks);
}

/* ---- nodes of memory --------------------------------------------------------------------------------------------- */

#define PART_ROWS ((size_t)64) /* the rows of a node are multiples of this */

size_t compute_part_of_node(const struct compute_nodes *nodes, uint32_t node, size_t rows)
{
    size_t threads = nodes->first_thread[nodes->count];
    if (node == 0 || threads == 0)
        return 0;
    return node >= nodes->count ? rows : MIN(rows * nodes->first_thread[node] / threads & ~(PART_ROWS - 1), rows);
}

hypura_status compute_set_nodes(struct compute *compute, const struct compute_nodes *nodes, hypura_error *error)
{
    if (nodes->count < 2)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&compute->node_jobs, SECTION_JOBS, "products of nodes", error);
    if (!status)
        compute->nodes = *nodes;
    return status;
}

/* Writes the rows of a job that a node's threads multiply. false: none. */
static bool job_on_node(struct matmul *out, const struct compute_nodes *nodes, const struct matmul *job, uint32_t node)
{
    int whole = nodes->node_of ? nodes->node_of(nodes->context, job->weights.data) : -1;
    size_t first = compute_part_of_node(nodes, node, job->weights.rows);
    size_t end = compute_part_of_node(nodes, node + 1, job->weights.rows);
    if (whole >= 0) {
        *out = *job;
        return (uint32_t)whole == node;
    }
    *out = *job;
    out->weights.data = job->weights.data + first * job->weights.row_bytes;
    out->weights.rows = end - first;
    out->output = job->output + first;
    out->bias = job->bias ? job->bias + first : NULL;
    return end > first;
}

/* Divides jobs among the nodes, and runs as many at a time as there is room for. The parts of each node are adjacent,
 * so that they coincide with the shares of the node's threads. */
static void run_on_nodes(struct compute *compute, const struct matmul *jobs, size_t count)
{
    const struct compute_nodes *nodes = &compute->nodes;
    for (size_t first = 0; first < count;) {
        size_t end = MIN(count, first + SECTION_JOBS / nodes->count), made = 0;
        for (uint32_t node = 0; node < nodes->count; node++)
            for (size_t i = first; i < end; i++)
                made += job_on_node(&compute->node_jobs[made], nodes, &jobs[i], node);
        run_section(compute, compute->node_jobs, made);
        first = end;
    }
}

void compute_matmul(struct compute *compute, const struct matmul *jobs, size_t count)
{
    bool gemm = false;
    for (size_t i = 0; i < count; i++) {
        prepare(compute, &jobs[i]);
        gemm = gemm || (compute->nodes.count && jobs[i].tokens && jobs[i].weights.rows &&
                        job_path(job_kernel(compute, &jobs[i]), &jobs[i]) == PATH_GEMM);
    }
    if (compute->nodes.count && !gemm) {
        run_on_nodes(compute, jobs, count);
        return;
    }
    for (size_t first = 0; first < count; first += SECTION_JOBS)
        run_section(compute, jobs + first, MIN(count - first, (size_t)SECTION_JOBS));
}
