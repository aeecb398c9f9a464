#include "compute/vulkan/vk.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* The loader stays open: drivers leave threads and handlers whose code must not be unloaded. */
static void *loader;
static pthread_once_t loader_once = PTHREAD_ONCE_INIT;

static void open_loader(void)
{
#ifdef __APPLE__
    static const char *const names[] = {"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib",
                                        "/opt/homebrew/lib/libvulkan.1.dylib", "/opt/homebrew/lib/libMoltenVK.dylib"};
#else
    static const char *const names[] = {"libvulkan.so.1", "libvulkan.so"};
#endif
    for (size_t i = 0; i < COUNT_OF(names) && !loader; i++)
        loader = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
}

const char *vk_result_text(VkResult result)
{
    switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return "out of host memory";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
        return "out of device memory";
    case VK_ERROR_INITIALIZATION_FAILED:
        return "the driver could not be initialised";
    case VK_ERROR_DEVICE_LOST:
        return "the device was lost";
    case VK_ERROR_MEMORY_MAP_FAILED:
        return "memory could not be mapped";
    case VK_ERROR_LAYER_NOT_PRESENT:
        return "a layer is not installed";
    case VK_ERROR_EXTENSION_NOT_PRESENT:
        return "an extension is missing";
    case VK_ERROR_FEATURE_NOT_PRESENT:
        return "a feature is missing";
    case VK_ERROR_INCOMPATIBLE_DRIVER:
        return "no driver that is compatible";
    case VK_ERROR_TOO_MANY_OBJECTS:
        return "too many allocations";
    case VK_ERROR_INVALID_EXTERNAL_HANDLE:
        return "the memory cannot be imported";
    case VK_TIMEOUT:
        return "it took too long";
    default:
        return "the driver refused";
    }
}

hypura_status vk_error(hypura_error *error, VkResult result, const char *doing)
{
    bool memory = result == VK_ERROR_OUT_OF_DEVICE_MEMORY || result == VK_ERROR_OUT_OF_HOST_MEMORY ||
                  result == VK_ERROR_TOO_MANY_OBJECTS;
    return error_set(error, memory ? HYPURA_ERROR_MEMORY : HYPURA_ERROR_DEVICE, "GPU: %s: %s (Vulkan result %d)", doing,
                     vk_result_text(result), (int)result);
}

bool vk_has_extension(const VkExtensionProperties *list, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].extensionName, name) == 0)
            return true;
    return false;
}

static VkBool32 VKAPI_PTR count_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                        VkDebugUtilsMessageTypeFlagsEXT types,
                                        const VkDebugUtilsMessengerCallbackDataEXT *data, void *context)
{
    (void)severity;
    (void)types;
    /* A batch of more than 10 seconds, which is normal on a busy machine without a GPU; and setting an event for which
     * a batch on the device waits, which watch.c does on purpose, as layers report it before and after. */
    static const char *const expected[] = {"UNASSIGNED-VkSemaphore-state-timeout", "VUID-vkSetEvent-event-09543",
                                           "VUID-vkCmdWaitEvents-srcStageMask-01158"};
    for (size_t i = 0; data->pMessageIdName && i < COUNT_OF(expected); i++)
        if (strcmp(data->pMessageIdName, expected[i]) == 0)
            return VK_FALSE;
    atomic_fetch_add((_Atomic uint64_t *)context, 1);
    log_write(LOG_ERROR, "Vulkan validation: %s", data->pMessage);
    return VK_FALSE;
}

/* Whether the instance, or the layer if it is not NULL, has an extension. */
static bool instance_has(struct vk *vk, const char *layer, const char *name)
{
    uint32_t count = 0;
    VkExtensionProperties *list;
    if (vk->vkEnumerateInstanceExtensionProperties(layer, &count, NULL) || count == 0 ||
        ALLOCATE(&list, count, "Vulkan extensions", NULL))
        return false;
    bool has = vk->vkEnumerateInstanceExtensionProperties(layer, &count, list) == VK_SUCCESS &&
               vk_has_extension(list, count, name);
    memory_free(list);
    return has;
}

static const char validation_layer[] = "VK_LAYER_KHRONOS_validation";

static hypura_status create_instance(struct vk *vk, bool validate, _Atomic uint64_t *messages, hypura_error *error)
{
    const char *extensions[4];
    const char *layers[] = {validation_layer};
    const VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                           .pApplicationName = "hypura",
                                           .pEngineName = "hypura",
                                           .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                   .pApplicationInfo = &application,
                                   .ppEnabledExtensionNames = extensions,
                                   .ppEnabledLayerNames = layers};
    if (instance_has(vk, NULL, VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME)) {
        extensions[create.enabledExtensionCount++] = VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME;
        create.flags |= VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR;
    }
    /* Synchronisation validation sees copies, but not what shaders access through addresses. */
    const VkValidationFeatureEnableEXT enables[] = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    VkValidationFeaturesEXT features = {.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
                                        .enabledValidationFeatureCount = 1,
                                        .pEnabledValidationFeatures = enables};
    const VkDebugUtilsMessengerCreateInfoEXT messenger = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity =
            VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
        .pfnUserCallback = count_message,
        .pUserData = (void *)messages};
    if (validate) {
        if (!instance_has(vk, validation_layer, VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME) ||
            !instance_has(vk, NULL, VK_EXT_DEBUG_UTILS_EXTENSION_NAME))
            return error_set(
                error, HYPURA_ERROR_UNSUPPORTED,
                "Vulkan's validation layer was requested, but is not installed (Debian: vulkan-validationlayers)");
        create.enabledLayerCount = 1;
        extensions[create.enabledExtensionCount++] = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
        extensions[create.enabledExtensionCount++] = VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME;
        create.pNext = &features;
    }
    VkResult result = vk->vkCreateInstance(&create, NULL, &vk->instance);
    if (result) {
        vk->instance = VK_NULL_HANDLE;
        return vk_error(error, result, "starting Vulkan");
    }
#define LOAD(name)                                                                                                     \
    vk->name = (PFN_##name)vk->get_instance_function(vk->instance, #name);                                             \
    if (!vk->name)                                                                                                     \
        return error_set(error, HYPURA_ERROR_DEVICE, "GPU: Vulkan's loader has no function %s", #name);
    VK_INSTANCE_FUNCTIONS(LOAD)
#undef LOAD
    if (validate) {
        vk->vkCreateDebugUtilsMessengerEXT = (PFN_vkCreateDebugUtilsMessengerEXT)vk->get_instance_function(
            vk->instance, "vkCreateDebugUtilsMessengerEXT");
        vk->vkDestroyDebugUtilsMessengerEXT = (PFN_vkDestroyDebugUtilsMessengerEXT)vk->get_instance_function(
            vk->instance, "vkDestroyDebugUtilsMessengerEXT");
        if (!vk->vkCreateDebugUtilsMessengerEXT || !vk->vkDestroyDebugUtilsMessengerEXT ||
            vk->vkCreateDebugUtilsMessengerEXT(vk->instance, &messenger, NULL, &vk->messenger))
            return error_set(error, HYPURA_ERROR_DEVICE, "GPU: Vulkan's validation messages cannot be received");
    }
    return HYPURA_OK;
}

hypura_status vk_open(struct vk *vk, bool validate, _Atomic uint64_t *messages, hypura_error *error)
{
    *vk = (struct vk){0};
    pthread_once(&loader_once, open_loader);
    if (!loader)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "there is no Vulkan loader on this machine (libvulkan.so.1 of a graphics driver)");
    vk->get_instance_function = (PFN_vkGetInstanceProcAddr)dlsym(loader, "vkGetInstanceProcAddr");
    if (!vk->get_instance_function)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the Vulkan loader lacks vkGetInstanceProcAddr");
#define LOAD(name)                                                                                                     \
    vk->name = (PFN_##name)vk->get_instance_function(NULL, #name);                                                     \
    if (!vk->name)                                                                                                     \
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the Vulkan loader is older than 1.2: no %s", #name);
    VK_GLOBAL_FUNCTIONS(LOAD)
#undef LOAD
    uint32_t version = 0;
    if (vk->vkEnumerateInstanceVersion(&version) || version < VK_API_VERSION_1_2)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the Vulkan loader is older than 1.2");
    hypura_status status = create_instance(vk, validate, messages, error);
    if (status)
        vk_close(vk);
    return status;
}

hypura_status vk_load_device(struct vk *vk, VkDevice device, hypura_error *error)
{
#define LOAD(name)                                                                                                     \
    vk->name = (PFN_##name)vk->vkGetDeviceProcAddr(device, #name);                                                     \
    if (!vk->name)                                                                                                     \
        return error_set(error, HYPURA_ERROR_DEVICE, "GPU: the driver has no function %s", #name);
    VK_DEVICE_FUNCTIONS(LOAD)
#undef LOAD
#define LOAD_IF_THERE(name) vk->name = (PFN_##name)vk->vkGetDeviceProcAddr(device, #name)
    LOAD_IF_THERE(vkGetMemoryHostPointerPropertiesEXT);
    LOAD_IF_THERE(vkCreateCuModuleNVX);
    LOAD_IF_THERE(vkDestroyCuModuleNVX);
    LOAD_IF_THERE(vkCreateCuFunctionNVX);
    LOAD_IF_THERE(vkDestroyCuFunctionNVX);
    LOAD_IF_THERE(vkCmdCuLaunchKernelNVX);
#undef LOAD_IF_THERE
    return HYPURA_OK;
}

void vk_close(struct vk *vk)
{
    if (vk->messenger)
        vk->vkDestroyDebugUtilsMessengerEXT(vk->instance, vk->messenger, NULL);
    if (vk->instance && vk->vkDestroyInstance)
        vk->vkDestroyInstance(vk->instance, NULL);
    *vk = (struct vk){0};
}

static void keep_instance(void)
{
    static struct vk kept;
    vk_open(&kept, false, NULL, NULL);
}

void vk_keep_drivers(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, keep_instance);
}
