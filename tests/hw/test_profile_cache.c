/* Profiles are saved and found again. Damaged profiles are rejected. */
#include "folder.h"

#include "hw/hw_private.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_cache_folder(void **state)
{
    return make_folder(state) || setenv("XDG_CACHE_HOME", path_in_folder("deep/cache"), 1) ? -1 : 0;
}

static struct hardware machine(void)
{
    struct hardware hardware = {.cpu = "Test CPU \"quoted\"",
                                .instructions = "AVX2",
                                .cores = 6,
                                .memory_total = (uint64_t)32 << 30,
                                .memory_bytes_per_second = 1,
                                .compute_bytes_per_second = 2,
                                .storage = {.file_system = "ext4", .device = "nvme0n1p2", .direct_supported = true}};
    return hardware;
}

static struct hardware measured(void)
{
    struct hardware hardware = machine();
    hardware.memory_bytes_per_second = 41.5e9;
    hardware.compute_bytes_per_second = 30.25e9;
    hardware.multiply_adds_per_second = 123e9;
    hardware.kernels[0] = (struct kernel_speed){TENSOR_Q4_K, 33e9, 1e12, 4e12};
    hardware.kernels[1] = (struct kernel_speed){TENSOR_F32, 40e9};
    hardware.kernel_count = 2;
    hardware.measured = true;
    hardware.gpus[0] = (struct hardware_gpu){.info = {.name = "Test GPU", .driver_version = 7},
                                             .memory_bytes_per_second = 2e12,
                                             .upload_bytes_per_second = 25e9,
                                             .turn_seconds = 20e-6,
                                             .move_seconds = 12e-6,
                                             .layer_seconds = 20e-6,
                                             .float_layer_seconds = 30e-6,
                                             .router_seconds = 15e-6,
                                             .share_seconds = 200e-6,
                                             .host_bytes = 345678901,
                                             .multiply_adds_per_second = 1e14,
                                             .kernels = {{TENSOR_F16, 1.5e12}},
                                             .kernel_count = 1};
    hardware.gpu_count = 1;
    hardware.storage.block_bytes = 524288;
    hardware.storage.depth = 12;
    hardware.storage.bytes_per_second = 2.5e9;
    hardware.storage.reading_beside = 0.75;
    hardware.storage.computing_beside = 0.5;
    hardware.storage.latency_seconds = 80e-6;
    hardware.storage.direct_pays = true;
    for (size_t i = 0; i < STORAGE_MAX_SAMPLES; i++)
        hardware.storage.samples[hardware.storage.sample_count++] =
            (struct storage_sample){4096 << i % 10, 1 + (uint32_t)i % 64, i % 2, i % 3 == 0, 1e8 + (double)i};
    return hardware;
}

static void assert_near(double a, double b)
{
    assert_true(a >= b * (1 - 1e-12) && a <= b * (1 + 1e-12));
}

static void a_saved_profile_is_found(void **state)
{
    (void)state;
    struct hardware saved = measured(), loaded = machine();
    assert_false(hw_load_profile(&loaded));
    assert_ok(hw_save_profile(&saved, &test_error));
    loaded.memory_available = 12345;
    assert_true(hw_load_profile(&loaded));
    assert_true(loaded.measured);
    assert_int_equal(loaded.memory_available, 12345); /* available memory is never cached */
    assert_near(loaded.memory_bytes_per_second, 41.5e9);
    assert_near(loaded.compute_bytes_per_second, 30.25e9);
    assert_near(loaded.multiply_adds_per_second, 123e9);
    assert_near(hardware_kernel_speed(&loaded, TENSOR_Q4_K), 33e9);
    assert_near(hardware_kernel_speed(&loaded, TENSOR_F32), 40e9);
    assert_near(hardware_kernel_speed(&loaded, TENSOR_Q6_K), 30.25e9);
    /* The cost reproduces the measurements for few and for many tokens. A type without them uses the machine's speed.
     */
    struct product_cost cost = hardware_product_cost(&loaded, TENSOR_Q4_K, 0.5625e9, 1e9);
    assert_near(cost.start + KERNEL_FEW * cost.each, KERNEL_FEW * 1e9 / 1e12);
    assert_near(cost.start + KERNEL_MANY * cost.each, KERNEL_MANY * 1e9 / 4e12);
    cost = hardware_product_cost(&loaded, TENSOR_F32, 4e9, 1e9);
    assert_near(cost.start, 4e9 / 40e9);
    assert_near(cost.each, 1e9 / 123e9);
    struct hardware_gpu gpu = {.info = {.name = "Test GPU", .driver_version = 7}};
    hardware_gpu_speeds(&loaded, &gpu);
    assert_true(gpu.measured);
    assert_near(gpu.memory_bytes_per_second, 2e12);
    assert_near(gpu.upload_bytes_per_second, 25e9);
    assert_near(gpu.turn_seconds, 20e-6);
    assert_near(gpu.move_seconds, 12e-6);
    assert_near(gpu.share_seconds, 200e-6);
    assert_true(loaded.gpus[0].host_bytes == 345678901);
    assert_near(gpu.layer_seconds, 20e-6);
    assert_near(gpu.float_layer_seconds, 30e-6);
    assert_near(gpu.router_seconds, 15e-6);
    assert_near(gpu.multiply_adds_per_second, 1e14);
    assert_near(hardware_gpu_kernel_speed(&gpu, TENSOR_F16), 1.5e12);
    assert_int_equal(loaded.storage.block_bytes, 524288);
    assert_int_equal(loaded.storage.depth, 12);
    assert_near(loaded.storage.bytes_per_second, 2.5e9);
    assert_near(loaded.storage.reading_beside, 0.75);
    assert_near(loaded.storage.computing_beside, 0.5);
    assert_near(loaded.storage.latency_seconds, 80e-6);
    assert_true(loaded.storage.direct_pays);
    assert_int_equal(loaded.storage.sample_count, STORAGE_MAX_SAMPLES);
    for (size_t i = 0; i < STORAGE_MAX_SAMPLES; i++) {
        const struct storage_sample *a = &saved.storage.samples[i], *b = &loaded.storage.samples[i];
        assert_true(a->block_bytes == b->block_bytes && a->depth == b->depth && a->direct == b->direct &&
                    a->sequential == b->sequential);
        assert_near(b->bytes_per_second, a->bytes_per_second);
    }
}

static void another_machine_or_drive_has_another_profile(void **state)
{
    (void)state;
    struct hardware saved = measured();
    assert_ok(hw_save_profile(&saved, &test_error));
    struct hardware other = machine();
    strcpy(other.storage.device, "sda1");
    assert_false(hw_load_profile(&other));
    other = machine();
    other.cores = 7;
    assert_false(hw_load_profile(&other));
    other = machine();
    assert_true(hw_load_profile(&other));
}

static void replace_text(const char *path, const char *from, const char *to)
{
    static char text[100000], changed[100000];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(changed, file);
    fclose(file);
}

static void damage_is_noticed_and_repaired(void **state)
{
    (void)state;
    static const char *const damages[][2] = {
        {"{", ""},
        {"\"version\": 7", "\"version\": 3"},
        {"\"version\": 7", "\"version\": \"5\""},
        {"cores=6", "cores=8"},
        {"\"depth\": 12", "\"depth\": 0"},
        {"\"depth\": 12", "\"depth\": 1e3"},
        {"\"block_bytes\": 524288", "\"block_bytes\": 524289"},
        {"\"block_bytes\": 524288", "\"block_bytes\": -4096"},
        {"\"block_bytes\": 524288", "\"block_bytes\": 99999999999999999999"},
        {"\"reading_beside\": 0.75", "\"reading_beside\": 1.01"},
        {"\"reading_beside\": 0.75", "\"reading_besides\": 0.75"},
        {"\"computing_beside\": 0.5", "\"computing_beside\": 0"},
        {"\"Q4_K\"", "\"Q4_X\""},
        {"\"direct_pays\": true", "\"direct_pays\": 1"},
        {"\"memory_bytes_per_second\": 41500000000.0", "\"memory_bytes_per_second\": 0"},
        {"\"memory_bytes_per_second\": 41500000000.0", "\"memory_bytes_per_second\": -1.5"},
        {"\"samples\": [", "\"samples\": [7, "},
        {"\"samples\": [", "\"samplez\": ["},
    };
    struct hardware saved = measured();
    char path[4096];
    assert_true(hw_profile_path(&saved, path, sizeof path));
    for (size_t i = 0; i < COUNT_OF(damages); i++) {
        assert_ok(hw_save_profile(&saved, &test_error));
        replace_text(path, damages[i][0], damages[i][1]);
        struct hardware loaded = machine(), before = machine();
        if (hw_load_profile(&loaded))
            fail_msg("a profile with %s was accepted", damages[i][1]);
        assert_memory_equal(&loaded, &before, sizeof loaded);
    }
    assert_ok(hw_save_profile(&saved, &test_error));
    struct hardware loaded = machine();
    assert_true(hw_load_profile(&loaded));
}

static void every_cut_of_a_profile_is_refused(void **state)
{
    (void)state;
    struct hardware saved = measured();
    saved.storage.sample_count = 3;
    char path[4096];
    assert_true(hw_profile_path(&saved, path, sizeof path));
    assert_ok(hw_save_profile(&saved, &test_error));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    /* The cut must reach beyond a trailing newline or two. */
    for (off_t size = info.st_size - 3; size >= 0; size -= 7) {
        assert_int_equal(truncate(path, size), 0);
        struct hardware loaded = machine();
        assert_false(hw_load_profile(&loaded));
    }
}

static void nothing_else_is_left_in_the_folder(void **state)
{
    (void)state;
    struct hardware saved = measured();
    assert_ok(hw_save_profile(&saved, &test_error));
    assert_ok(hw_save_profile(&saved, &test_error));
    char path[4096];
    assert_true(hw_profile_path(&saved, path, sizeof path));
    *strrchr(path, '/') = '\0';
    DIR *listing = opendir(path);
    assert_non_null(listing);
    int files = 0;
    for (struct dirent *entry; (entry = readdir(listing));)
        files += entry->d_name[0] != '.';
    closedir(listing);
    assert_int_equal(files, 1);
}

static void a_cache_that_cannot_be_written_is_an_error_that_names_it(void **state)
{
    (void)state;
    setenv("XDG_CACHE_HOME", "/dev/null/here", 1);
    struct hardware saved = measured();
    assert_int_equal(hw_save_profile(&saved, &test_error), HYPURA_ERROR_IO);
    assert_non_null(strstr(test_error.message, "/dev/null"));
    struct hardware loaded = machine();
    assert_false(hw_load_profile(&loaded));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_saved_profile_is_found, make_cache_folder, remove_folder),
        cmocka_unit_test_setup_teardown(another_machine_or_drive_has_another_profile, make_cache_folder, remove_folder),
        cmocka_unit_test_setup_teardown(damage_is_noticed_and_repaired, make_cache_folder, remove_folder),
        cmocka_unit_test_setup_teardown(every_cut_of_a_profile_is_refused, make_cache_folder, remove_folder),
        cmocka_unit_test_setup_teardown(nothing_else_is_left_in_the_folder, make_cache_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_cache_that_cannot_be_written_is_an_error_that_names_it, make_cache_folder,
                                        remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
